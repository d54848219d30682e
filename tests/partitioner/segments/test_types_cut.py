"""Cuts at values that are not plain tensors, and files that older engines can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.segments.pieces import Piece
from trisect.partitioner.segments.plan_of_pieces import plan_of_pieces
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime import engines
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

DEVICES = engines.find_devices("cpu:ort,cpu:openvino")


def save(folder: Path, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], opset: int = 18) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 13
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def one_each(graph: Graph, folder: Path) -> Plan:
    pieces = [Piece("cpu:ort", data["nodes"]) for _, data in task_graph(graph).nodes(data=True)]
    return plan_of_pieces(graph, pieces, DEVICES, folder, strategy="by hand")


def test_lists_are_cut_and_only_who_carries_them_may_have_them(tmp_path):
    path = save(
        tmp_path,
        [
            helper.make_node("SplitToSequence", ["x"], ["rows"], name="split"),
            helper.make_node("ConcatFromSequence", ["rows"], ["y"], name="join", axis=0),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    graph = Graph.read(path)
    tasks = task_graph(graph)
    assert list(tasks) == ["split", "join"]
    refused = refusals(graph, tasks, DEVICES, Capabilities(tmp_path / "capabilities.json"))
    assert {pair for pair in refused if pair[1] == "cpu:ort"} == set()
    assert {pair for pair in refused if pair[1] == "cpu:openvino"} == {
        ("split", "cpu:openvino"), ("join", "cpu:openvino"),
    }  # fmt: skip
    plan = Plan.load(one_each(graph, tmp_path / "plan").folder)
    assert plan.segments[1].inputs[0].dtype == "seq(float32)"
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    with Session(plan) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)


def test_scalars_known_beforehand_stay_scalars(tmp_path):
    path = save(
        tmp_path,
        [
            helper.make_node("Constant", [], ["two"], value_int=2),
            helper.make_node("Cast", ["two"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, name="sum"),
            helper.make_node("Mul", ["sum", "wide"], ["y"], name="twice"),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    with Session(one_each(Graph.read(path), tmp_path / "plan")) as session:
        out = session.run({"x": np.ones((4, 2), np.float32)})["y"]
    assert out.shape == ()
    assert out == 16


def test_unused_nodes_are_not_in_a_segment(tmp_path):
    path = save(
        tmp_path,
        [
            helper.make_node("Neg", ["x"], ["y"], name="used"),
            helper.make_node("Abs", ["x"], ["lost"], name="unused"),
            helper.make_node("Exp", ["x"], ["big"], name="only its shape"),
            helper.make_node("Shape", ["big"], ["shape"], name="shape"),
            helper.make_node("Reshape", ["y", "shape"], ["z"], name="reshape"),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 2])],
    )
    assert list(task_graph(Graph.read(path))) == ["used", "reshape"]


def test_a_segment_asks_for_no_newer_opset_than_its_operators(tmp_path):
    path = save(
        tmp_path,
        [helper.make_node("Neg", ["x"], ["a"], name="neg"), helper.make_node("Identity", ["a"], ["y"], name="same")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 2])],
        opset=25,
    )
    plan = one_each(Graph.read(path), tmp_path / "plan")
    written = [onnx.load(Path(plan.folder) / segment.file) for segment in plan.segments]
    assert [model.opset_import[0].version for model in written] == [21, 25]
    assert max(model.ir_version for model in written) < 13  # the model's own
