"""Results that differ from the reference are found, and a crash of an engine ends the child process only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from trisect.partitioner.problem.numeric_trials import EQUAL, compare_with_reference, numeric_trials
from trisect.runtime import engines


def piece(folder: Path, node: onnx.NodeProto, dtype: int) -> Path:
    names = list(dict.fromkeys(node.input))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(n, dtype, [8]) for n in names],
        [helper.make_tensor_value_info("y", dtype, [8])],
    )  # fmt: skip
    path = folder / "piece.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_an_engine_that_computes_something_else_differs(tmp_path):
    openvino, ort, reference = engines.find_devices("cpu:openvino,cpu:ort,cpu:reference")
    right = piece(tmp_path, helper.make_node("Neg", ["x"], ["y"]), TensorProto.FLOAT)
    assert compare_with_reference(right, openvino, reference) == EQUAL
    # OpenVINO computes float64 as float32, which overflows.
    double = piece(tmp_path, helper.make_node("Mul", ["x", "x"], ["y"]), TensorProto.DOUBLE)
    result = compare_with_reference(double, openvino, reference)
    assert result.outcome == "different"
    assert "'y' is off by" in result.reason
    assert numeric_trials().run(double, ort, reference) == EQUAL
    lost = piece(tmp_path, helper.make_node("Gather", ["x", "x"], ["y"]), TensorProto.INT64)
    assert numeric_trials().run(lost, ort, reference).outcome in ("equal", "undecided")


def test_a_process_that_dies_in_a_trial_is_replaced(tmp_path):
    ort, reference = engines.find_devices("cpu:ort,cpu:reference")
    right = piece(tmp_path, helper.make_node("Neg", ["x"], ["y"]), TensorProto.FLOAT)
    trials = numeric_trials()
    assert trials.run(right, ort, reference) == EQUAL
    assert trials._process is not None
    os.kill(trials._process.pid, signal.SIGKILL)
    assert trials.run(right, ort, reference).outcome in ("equal", "failed")  # it may not have ended yet
    assert trials.run(right, ort, reference) == EQUAL
