"""Folded values are those that an engine computes, to the bit; what engines may decide for themselves is not folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.partitioner.graph.model_graph import Graph

EDGES = {
    "int64": np.array([0, 1, -1, 7, -7, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 5], np.int64),
    "int32": np.array([0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 100, 3, 2], np.int32),
    "uint8": np.array([0, 1, 255, 128, 7, 200, 3, 2, 100, 55], np.uint8),
    "uint64": np.array([0, 1, 2**64 - 1, 2**63, 7, 9, 3, 2, 100, 55], np.uint64),
    "float32": np.array([0, -0.0, 1.5, -1.5, 2.5, -0.5, 1e-40, 3e38, 1e10, 0.1], np.float32),
    "floats": np.array([0, 2.5, np.nan, np.inf, -np.inf, -0.5, 1e-40, 3e38, 1e10, 0.1], np.float32),
    "float64": np.array([3, 0.5, 1.5, -1.5, 2.5, -0.5, 1e-320, 1e308, 1e10, 0.1], np.float64),
    "float16": np.array([0, -0.0, 1.5, -1.5, 2.5, -0.5, 1e-7, 65504, 1000, 0.1], np.float16),
    "bool": np.array([0, 1] * 5, bool),
}
UNARY = "Abs Ceil Floor Neg Not Sign".split()
LOGICAL = ["And", "Or", "Xor"]
BINARY = [*LOGICAL, *"Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Sub".split()]


@dataclass(frozen=True)
class Case:
    """One node whose inputs are constants."""

    op_type: str
    arrays: Sequence[np.ndarray]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def model_of(cases: Mapping[str, Case]) -> onnx.ModelProto:
    """A model with a node for each case, and another node behind each: an output itself would not be folded."""
    nodes, weights = [], []
    for name, case in cases.items():
        inputs = [f"{name}_{index}" for index in range(len(case.arrays))]
        weights += [numpy_helper.from_array(array, i) for array, i in zip(case.arrays, inputs, strict=True)]
        nodes.append(helper.make_node(case.op_type, inputs, [name], **case.attributes))
        nodes.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    outputs = [onnx.ValueInfoProto(name=f"{name}_out") for name in cases]
    graph = helper.make_graph(nodes, "g", [], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(cases: Mapping[str, Case]) -> dict[str, np.ndarray]:
    """Return what ONNX Runtime computes; nothing for what it does not implement."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    model = onnx.shape_inference.infer_shapes(model_of(cases))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return {} if len(cases) == 1 else {k: v for name in cases for k, v in run({name: cases[name]}).items()}
    return dict(zip(cases, session.run(None, {}), strict=True))


def folded(folder: Path, cases: Sequence[Case]) -> list[bool]:
    """Return which cases were folded; their values must be ONNX Runtime's then."""
    named = {f"y{index}": case for index, case in enumerate(cases)}
    onnx.save(model_of(named), folder / "m.onnx")
    values = Graph.read(folder / "m.onnx").folded
    for name, expected in run({name: case for name, case in named.items() if name in values}).items():
        assert values[name].dtype == expected.dtype
        assert values[name].tobytes() == expected.tobytes(), (named[name], values[name], expected)
    return [name in values for name in named]


@pytest.mark.parametrize("kind", EDGES)
def test_operators_on_edge_values(tmp_path: Path, kind: str) -> None:
    values = EDGES[kind]
    limits = [np.array(bound).astype(values.dtype) for bound in (1, 7)]
    others = (values[::-1].copy(), np.array(2).astype(values.dtype))
    cases = [Case(op, [values]) for op in UNARY if op != "Not" or kind == "bool"]
    cases += [Case(op, [values, other]) for op in BINARY for other in others if (op in LOGICAL) == (kind == "bool")]
    cases += [Case("Clip", [values, *limits]), Case("Where", [EDGES["bool"], values, others[0]])]
    cases += [Case("ReduceMax", [values], {"keepdims": 0})]
    for case, is_folded in zip(cases, folded(tmp_path, cases), strict=True):
        # Engines end by a signal there.
        assert not (is_folded and case.op_type in ("Div", "Mod") and not case.arrays[1].all())


@pytest.mark.parametrize("kind", EDGES)
def test_casts(tmp_path: Path, kind: str) -> None:
    exact = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL)
    unspecified = (TensorProto.STRING, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN)
    results = folded(tmp_path, [Case("Cast", [EDGES[kind]], {"to": to}) for to in (*exact, *unspecified)])
    assert not any(results[len(exact) :])


def test_arithmetic_on_shapes_is_folded(tmp_path: Path) -> None:
    sizes, two = np.array([2, 3, 640], np.int64), np.array(2, np.int64)
    cases = [Case(op, [sizes, two]) for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal")]
    cases += [Case("Cast", [sizes], {"to": TensorProto.FLOAT}), Case("Range", [np.array(n) for n in (0, 5, 2)])]
    cases += [Case("Slice", [sizes, np.array([-2]), np.array([2**63 - 1])])]
    assert all(folded(tmp_path, cases))


def test_ranges_of_floats_and_of_vectors_are_left_to_the_engines(tmp_path: Path) -> None:
    floats = [np.array(n, np.float32) for n in (0, 1, 0.1)]
    vectors = [np.array(n) for n in ([0, 1], [5, 5], [1, 1])]
    assert not any(folded(tmp_path, [Case("Range", floats), Case("Range", vectors)]))


def test_nothing_is_folded_by_a_shape_that_is_only_declared(tmp_path: Path) -> None:
    """Behind an operator that inference does not know, the file may declare the shape of another batch."""
    nodes = [
        helper.make_node("NGramRepeatBlock", ["i", "s"], ["n"], domain="com.microsoft", ngram_size=2),
        helper.make_node("Shape", ["n"], ["y"]),
        helper.make_node("NonZero", ["s"], ["m"]),
        helper.make_node("Shape", ["m"], ["z"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("i", TensorProto.INT64, [2, 2]), info("s", TensorProto.FLOAT, [2, 4])],
        [info("y", TensorProto.INT64, [2]), info("z", TensorProto.INT64, [2])],
        value_info=[info("n", TensorProto.FLOAT, [8, 1]), info("m", TensorProto.INT64, [2, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    read = Graph.read(tmp_path / "m.onnx")
    assert not read.folded
    assert read.digraph.nodes["NGramRepeatBlock_0"]["output_shapes"] == ((8, 1),)  # an estimate, for costs
