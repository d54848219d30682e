"""Every operator that the installed onnx knows, as its own test cases use it, and one network through all opsets."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.partitioner import small_models
from trisect.partitioner.graph import shape_inference
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.runtime.errors import InvalidInput, InvalidModel

NEWEST = onnx.defs.onnx_opset_version()


def _cases(per_operator: int) -> list[onnx.backend.test.case.test_case.TestCase]:
    """Return the models of onnx's tests, of each operator the first few."""
    import onnx.backend.test.case.model as models
    import onnx.backend.test.case.node as nodes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [*nodes.collect_testcases(None), *models.collect_testcases()]
    chosen, counts = [], Counter[tuple[str, ...]]()
    for case in cases:
        if case.model is None:
            continue
        operators = tuple(sorted({node.op_type for node in case.model.graph.node}))
        counts[operators] += 1
        if counts[operators] <= per_operator:
            chosen.append(case)
    return chosen


@pytest.mark.parametrize(
    ("per_operator", "known_min"), [(2, 400), pytest.param(10_000, 1500, marks=pytest.mark.slow(25))]
)
def test_test_cases_of_onnx_are_read_at_their_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_operator: int, known_min: int
) -> None:
    """Inputs but the first become constants, as parameters are; then a shape that is known must be the real one."""
    # In this process: two thousand copies of one as large as this take minutes.
    monkeypatch.setattr(shape_inference, "infer_isolated", lambda infer, size_bytes: infer(True))
    path, wrong, known = tmp_path / "model.onnx", [], 0
    for case in _cases(per_operator):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        feeds, answers = case.data_sets[0] if case.data_sets else ([], [])
        for info, array in list(zip(model.graph.input, feeds, strict=False))[1:]:
            if isinstance(array, np.ndarray) and array.dtype in (np.int64, np.float32):
                model.graph.initializer.append(numpy_helper.from_array(array, info.name))
        path.write_bytes(model.SerializeToString())
        fixed = {i.name for i in model.graph.initializer}
        shapes = {
            dim.dim_param or f"{info.name}.{axis}": int(array.shape[axis])
            for info, array in zip(model.graph.input, feeds, strict=False)
            if info.type.HasField("tensor_type") and info.name not in fixed
            for axis, dim in enumerate(info.type.tensor_type.shape.dim)
            if not dim.HasField("dim_value")
        }
        graph = Graph.read(path, shapes)
        for task, data in task_graph(graph).nodes(data=True):
            assert all(math.isfinite(op.flops) and op.flops >= 0 for op in data["operators"]), (case.name, task)
        for spec, array in zip(graph.outputs, answers, strict=False):
            value = next(v for v in graph.model.graph.outputs if v.name == spec.name)
            if isinstance(array, np.ndarray) and value.shape is not None and "?" not in spec.shape:
                known += 1
                if spec.shape != array.shape:
                    wrong.append((case.name, spec.shape, array.shape))
    assert not wrong
    assert known > known_min


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_one_network_in_every_opset(tmp_path: Path, opset: int) -> None:
    """Convolution, normalisation, pooling, resizing where there is one, and axes as attributes or as inputs."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        **{name: np.ones(8, np.float32) for name in ("scale", "bias", "mean", "var")},
        "axes": np.array([2, 3], np.int64),
        "fc": rng.standard_normal((8, 5)).astype(np.float32),
    }
    squeeze = (
        helper.make_node("Squeeze", ["p", "axes"], ["f"])
        if opset >= 13
        else helper.make_node("Squeeze", ["p"], ["f"], axes=[2, 3])
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        squeeze,
        helper.make_node("MatMul", ["f", "fc"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items() if name != "axes" or opset >= 13],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    read = Graph.read(path, {"batch": 4})
    assert read.outputs[0].shape == (4, 5)
    flops = {data["op_type"]: data["flops"] for _, data in read.digraph.nodes(data=True)}
    assert flops["Conv"] == 2 * (4 * 8 * 16 * 16) * 27
    assert flops["MatMul"] == 2 * 4 * 8 * 5


def test_the_tensors_of_a_sequence_need_no_shape(tmp_path: Path) -> None:
    path = small_models.write(
        tmp_path / "m.onnx",
        """<ir_version: 8, opset_import: ["" : 17]>
        m (seq(float[n]) s, int64 i) => (float[m] y) { y = SequenceAt(s, i) }""",
    )
    assert len(task_graph(Graph.read(path))) == 1
    with pytest.raises(InvalidInput, match="no dimension 'n'"):
        Graph.read(path, {"n": 3})


def test_a_model_over_2_gib_in_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # sparse: takes no room
    with pytest.raises(InvalidModel, match="external data"):
        Graph.read(path)


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_bodies_count_by_their_trips_and_capture_outer_values(tmp_path: Path, kind: str) -> None:
    loop = """
        h = MatMul(x, w)
        trips = Constant<value = int64 {5}>()
        go = Constant<value = bool {1}>()
        y = Loop(trips, go, x) <body = turn (int64 i, bool c, float[2, 8] s) => (bool k, float[2, 8] t) {
            k = Identity(c) t = Add(s, h) }>"""
    scan = """
        h = MatMul(x, w)
        y0, all = Scan<num_scan_inputs = 1, body = turn (float[2, 8] s, float[8] e) => (float[2, 8] t, float[8] f) {
            u = Add(s, h) t = Add(u, e) f = Identity(e) }>(x, rows)
        y = Identity(y0)"""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]> m (float[2, 8] x, float[5, 8] rows) => (float[2, 8] y) {{
        {loop if kind == "Loop" else scan}
    }}"""
    graph = Graph.read(small_models.write(tmp_path / "m.onnx", text, {"w": np.eye(8, dtype=np.float32)}))
    (node,) = (n for n, op in graph.digraph.nodes(data="op_type") if op == kind)
    assert graph.digraph.nodes[node]["flops"] == 5 * (16 if kind == "Loop" else 32)
    assert {t for _, _, tensors in graph.digraph.in_edges(node, data="tensors") for t in tensors} >= {"h"}
