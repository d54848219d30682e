"""Sparse constants become dense ones with the same values; what does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel
from trisect.runtime.tensors.sparse_tensors import make_dense

EXPECTED = np.array([[0, 3, 0], [0, 0, 5]], np.float32)


def sparse(indices: list[int], shape: list[int], dims: tuple[int, ...] = (2, 3)) -> onnx.SparseTensorProto:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 5.0])
    return helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, shape, indices), dims)


def model_with(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3])])
    graph.sparse_initializer.append(tensor)
    return helper.make_model(graph)


@pytest.mark.parametrize(("indices", "shape"), [([1, 5], [2]), ([0, 1, 1, 2], [2, 2])])
def test_both_forms_of_indices(indices: list[int], shape: list[int]) -> None:
    model = model_with(sparse(indices, shape))
    make_dense(model, "m.onnx")
    assert not model.graph.sparse_initializer
    assert model.graph.initializer[0].name == "w"
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), EXPECTED)


def test_constants_in_bodies_and_functions() -> None:
    constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse([1, 5], [2]))
    body = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 3])])
    branch = helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=body)
    function = helper.make_function("mine", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    model = helper.make_model(helper.make_graph([branch], "g", [], []), functions=[function])
    make_dense(model, "m.onnx")
    nodes = [*model.functions[0].node, *(a.g.node[0] for a in model.graph.node[0].attribute)]
    assert [node.attribute[0].name for node in nodes] == ["value"] * 3
    for node in nodes:
        np.testing.assert_array_equal(numpy_helper.to_array(node.attribute[0].t), EXPECTED)


def test_external_data(tmp_path: Path) -> None:
    tensor = sparse([1, 5], [2])
    (tmp_path / "data").write_bytes(b"\0" * 16 + np.array([3, 5], np.float32).tobytes())
    tensor.values.ClearField("float_data")
    tensor.values.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", "16"), ("length", "8")):
        tensor.values.external_data.add(key=key, value=value)
    model = model_with(tensor)
    make_dense(model, "m.onnx", tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), EXPECTED)


@pytest.mark.parametrize(
    ("tensor", "kind", "message"),
    [
        (sparse([1, 6], [2]), InvalidModel, "index outside its shape"),
        (sparse([-1, 2], [2]), InvalidModel, "index outside its shape"),
        (sparse([0, 1, 2, 0], [2, 2]), InvalidModel, "index outside its shape"),
        (sparse([0, 1, 2], [3]), InvalidModel, "indices of shape"),
        (sparse([0, 1], [2], (2, -3)), InvalidModel, r"the shape \[2, -3\]"),
        (sparse([0, 1], [2], (1 << 40, 1 << 40)), UnsupportedModel, "when it is dense"),
    ],
)
def test_refusals(tensor: onnx.SparseTensorProto, kind: type[TrisectError], message: str) -> None:
    with pytest.raises(kind, match=rf"m\.onnx: sparse tensor 'w' .*{message}"):
        make_dense(model_with(tensor), "m.onnx")
