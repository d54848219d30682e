"""The cost terms of a segment depend on fusion, layouts and quantisation."""

from __future__ import annotations

import numpy as np

from trisect.profiles.costmodel.op_instance import OpInstance, OpTensor
from trisect.profiles.costmodel.segment_terms import segment_terms


def tensor(name: str, *shape: int, constant: bool = False) -> OpTensor:
    return OpTensor(name, shape, 4 * int(np.prod(shape)), constant)


def conv(name: str, source: OpTensor, target: OpTensor) -> OpInstance:
    weight = tensor(f"{name}.w", target.shape[1], source.shape[1], 3, 3, constant=True)
    return OpInstance(name, "Conv", (source, weight), (target,), {"group": 1, "strides": [1, 1]}, 1e6, 1000)


X, Y, Z = (tensor(name, 1, 16, 8, 8) for name in "xyz")


def kinds(instances: list[OpInstance], leaving: list[str]) -> list[str]:
    return [term.kind for term in segment_terms(instances, leaving)]


def test_an_activation_after_a_convolution_is_fused() -> None:
    relu = OpInstance("r", "Relu", (Y,), (Z,))
    together = kinds([conv("c", X, Y), relu], ["z"])
    assert "elementwise behind" in together
    assert kinds([relu], ["z"]) == ["elementwise", "border", "border", "call"]
    # A tensor that also leaves the segment has to be stored before the activation.
    assert "elementwise behind" not in kinds([conv("c", X, Y), relu], ["y", "z"])


def test_layouts_are_converted_at_boundaries_and_not_between_convolutions() -> None:
    both = kinds([conv("a", X, Y), conv("b", Y, Z)], ["z"])
    assert both.count("layout in") == both.count("layout out") == 1
    apart = kinds([conv("a", X, Y)], ["y"]) + kinds([conv("b", Y, Z)], ["z"])
    assert apart.count("layout in") == apart.count("layout out") == 2


def test_dequantising_a_weight_costs_nothing_at_run_time() -> None:
    whole = OpInstance("d", "DequantizeLinear", (tensor("w8", 4, 4, constant=True),), (tensor("w", 4, 4),))
    product = OpInstance("m", "MatMul", (tensor("x", 2, 4), tensor("w", 4, 4)), (tensor("y", 2, 4),), {}, 64.0)
    assert "quantise" not in kinds([whole, product], ["y"])
