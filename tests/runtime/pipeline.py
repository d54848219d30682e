"""A pipeline of three segments that takes some milliseconds per item and whose result is known: y = x + 18."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from trisect.runtime.plans.plan import Plan
from trisect.runtime.tensors.tensor_spec import TensorSpec

SIZE = 192


def segment_text(source: str, target: str) -> str:
    """The graph of a segment that adds 6 to its input, between multiplications with a unit matrix."""
    names = [source, *(f"{target}{i}" for i in range(5)), target]
    nodes = " ".join(
        f"m{after} = MatMul({before}, unit)  {after} = Add(m{after}, one)"
        for before, after in itertools.pairwise(names)
    )
    head = f"one = Constant <value = float {{1.0}}> ()  shape = Constant <value_ints = [{SIZE}, {SIZE}]> () "
    unit = "zeros = ConstantOfShape(shape)  unit = EyeLike(zeros) "
    return f"g (float[n,{SIZE}] {source}) => (float[n,{SIZE}] {target}) {{ {head}{unit}{nodes} }}"


def make_pipeline(make_plan: Callable[..., Plan], first: str = "cpu:ort", second: str = "cpu:openvino") -> Plan:
    """The pipeline's plan, on two devices in turn."""
    parts = [
        (first, segment_text("x", "a")),
        (second, segment_text("a", "b")),
        (first, segment_text("b", "y")),
    ]
    specs = [TensorSpec(name, "float32", ("n", SIZE)) for name in ("x", "y")]
    return make_plan(parts, [specs[0]], [specs[1]])


def feeds(number: int) -> dict[str, np.ndarray]:
    """An item of a stream."""
    return {"x": np.full((64, SIZE), number, np.float32)}


def assert_right(number: int, outputs: dict[str, np.ndarray]) -> None:
    """Check the outputs of the item."""
    np.testing.assert_array_equal(outputs["y"], np.full((64, SIZE), number + 18, np.float32))
