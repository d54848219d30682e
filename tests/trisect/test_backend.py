"""ONNX's backend interface on split models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import trisect.backend as backend
from trisect.runtime.errors import InvalidInput, TrisectError, UnknownDevice

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
CHAIN = helper.make_model(
    helper.make_graph(
        [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["b"]),
         helper.make_node("Mul", ["a", "b"], ["y"])],
        "chain", [X], [Y],
    ),
    opset_imports=[helper.make_opsetid("", 18)],
)  # fmt: skip


def test_every_node_is_a_segment_and_the_engines_take_turns():
    prepared = backend.prepare(CHAIN)
    assert prepared.plan is None  # how many rows there are is not known yet
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    for rows in (2, 1):
        np.testing.assert_array_equal(prepared.run([x[:rows]])[0], -x[:rows] * np.abs(x[:rows]))
    assert prepared.plan is not None
    assert [segment.device for segment in prepared.plan.segments] == ["cpu:ort", "cpu:openvino", "cpu:ort"]
    folder = Path(prepared.plan.folder)
    assert folder.is_dir()
    prepared.close()
    assert not folder.exists()


def test_one_node_runs():
    node = helper.make_node("Add", ["a", "b"], ["c"])
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(backend.run_node(node, [x, x])[0], x + x)
    outputs = backend.run_node(node, {"a": x, "b": x}, outputs_info=[(np.dtype(np.float32), (2, 2))])
    np.testing.assert_array_equal(outputs[0], x + x)


def test_what_does_not_fit_is_refused():
    assert backend.supports_device("CPU")
    assert not backend.supports_device("TPU")
    with pytest.raises(UnknownDevice):
        backend.prepare(CHAIN, "TPU")
    with pytest.raises(InvalidInput, match="expected at most 1 inputs, got 2"):
        backend.prepare(CHAIN).run([np.zeros((1, 3), np.float32)] * 2)
    with pytest.raises(InvalidInput, match="shape"):
        backend.prepare(CHAIN).run([np.zeros((1, 4), np.float32)])
    nonsense = onnx.ModelProto()
    nonsense.CopyFrom(CHAIN)
    nonsense.graph.node[0].op_type = "Nonsense"
    assert backend.is_compatible(CHAIN)
    assert not backend.is_compatible(nonsense)
    with pytest.raises(TrisectError):
        backend.run_model(nonsense, [np.zeros((1, 3), np.float32)])
