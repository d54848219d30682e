"""Operator cases must be valid models of the work that they claim."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.measuring.operator_cases import standard_cases, tiny_chain
from trisect.runtime.engines import discover, load

ORT, OPENVINO = (next(d for d in discover() if d.id == name) for name in ("cpu:ort", "cpu:openvino"))
CASES = standard_cases()
SMALL = [case for case in CASES if case.size_bytes * case.repeats < 3e6]


def test_the_first_cases_cover_every_class():
    wanted = set(OpClass) - {OpClass.SHAPE, OpClass.CONTROL_FLOW}
    assert {case.op_class for case in CASES} == wanted
    assert {case.op_class for case in CASES[: len(wanted)]} == wanted
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.name.startswith(f"{case.op_class.value}:") for case in CASES)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_cases_are_valid_models_of_the_shapes_they_claim(case):
    model = onnx.load_from_string(case.build())
    onnx.checker.check_model(model, full_check=True)
    out = ReferenceEvaluator(model).run(None, {"x": case.feed()})[0]
    assert out.shape == case.output_shape
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 1e3
    for device in (ORT, OPENVINO):
        np.testing.assert_allclose(load(case.build(), device).run({"x": case.feed()})["y"], out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "case", [c for c in SMALL if c.op_class in (OpClass.MATMUL, OpClass.CONV)], ids=lambda c: c.name
)
def test_flops_and_bytes_are_those_of_the_model(case):
    """Recomputed from the weights: two operations per weight and position."""
    graph = onnx.load_from_string(case.build()).graph
    weight = tuple(graph.initializer[0].dims)
    places = case.output_shape[0] if case.op_class is OpClass.MATMUL else prod(case.output_shape[2:])
    assert case.flops == 2 * places * prod(weight)
    assert case.size_bytes == 4 * (prod(case.shape) + prod(weight) + prod(case.output_shape))


def test_memory_bound_cases_exceed_the_caches():
    largest = max((case for case in CASES if case.op_class is OpClass.MATVEC), key=lambda case: case.size_bytes)
    assert largest.repeats * largest.size_bytes >= 128e6


def test_tiny_chains_have_the_requested_number_of_nodes():
    model = onnx.load_from_string(tiny_chain(33).build())
    assert len(model.graph.node) == 33
    onnx.checker.check_model(model, full_check=True)
