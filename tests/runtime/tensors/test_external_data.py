"""No tensor, wherever it is in a model, may be read from outside the model's folder or be larger than it says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from trisect.partitioner.graph.model_graph import Graph
from trisect.runtime.errors import InvalidModel, TrisectError
from trisect.runtime.tensors.external_data import (
    check_model_file,
    check_tensors,
    gather_external_data,
    load_external_data,
    model_files,
    read_model,
)
from trisect.runtime.tensors.onnx_tensors import all_tensors

Place = Callable[[onnx.ModelProto, TensorProto], None]


def model() -> onnx.ModelProto:
    """A model with a function and a control-flow body."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, [4])]
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    call = helper.make_node("F", ["y"], ["z"], domain="my")
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in "xz"]
    graph = helper.make_graph([condition, branch, call], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    function = helper.make_function("my", "F", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], opsets[:1])
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)


def external(location: str, offset: object = 0, length: object = 16, shape: tuple[int, ...] = (4,)) -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def attribute(tensor: TensorProto) -> AttributeProto:
    return AttributeProto(name="v", type=AttributeProto.TENSOR, t=tensor)


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, dims=[9])


def sparse_indices(tensor: TensorProto) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.zeros(4, np.float32), "v")
    return onnx.SparseTensorProto(values=values, indices=tensor, dims=[9])


PLACES: dict[str, Place] = {
    "initialiser": lambda m, t: m.graph.initializer.append(t),
    "sparse values": lambda m, t: m.graph.sparse_initializer.append(sparse(t)),
    "sparse indices": lambda m, t: m.graph.sparse_initializer.append(sparse_indices(t)),
    "attribute": lambda m, t: m.graph.node[2].attribute.append(attribute(t)),
    "attribute's list": lambda m, t: m.graph.node[2].attribute.append(
        AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[t])
    ),
    "sparse attribute": lambda m, t: m.graph.node[2].attribute.append(
        AttributeProto(name="v", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(t))
    ),
    "sparse attribute's list": lambda m, t: m.graph.node[2].attribute.append(
        AttributeProto(name="v", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse(t)])
    ),
    "body": lambda m, t: m.graph.node[1].attribute[0].g.initializer.append(t),
    "body's attribute": lambda m, t: m.graph.node[1].attribute[1].g.node[0].attribute.append(attribute(t)),
    "function": lambda m, t: m.functions[0].node[0].attribute.append(attribute(t)),
    "function's default": lambda m, t: m.functions[0].attribute_proto.append(attribute(t)),
    "function's body": lambda m, t: (
        m.functions[0]
        .node[0]
        .attribute.append(AttributeProto(name="g", type=AttributeProto.GRAPH, g=onnx.GraphProto(initializer=[t])))
    ),
    "training": lambda m, t: m.training_info.add().algorithm.initializer.append(t),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_outside_is_refused_wherever_it_is(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(b"SECRET of the user")
    (tmp_path / "m").mkdir()
    for location in (str(tmp_path / "secret"), "../secret", "link"):
        proto = model()
        PLACES[place](proto, external(location))
        path = tmp_path / "m" / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        if location == "link":
            (tmp_path / "m" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(InvalidModel, match="points outside the model's folder"):
            check_model_file(path)
        with pytest.raises(TrisectError, match="points outside the model's folder"):
            Graph.read(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("w", shape=(4, 1 << 40)), "needs"),
        (external("w", shape=(1 << 40, 1 << 40)), "needs"),
        (external("w", length=15), "needs 16 bytes"),
        (external("w", offset=1), "needs 16 bytes at 1 of w, which has 16"),
        (external("w", offset=-1), "needs 16 bytes at -1"),
        (external("w", offset=1 << 70), "needs 16 bytes"),
        (external("w", offset="9" * 5000), "not a number"),
        (external("w", shape=(-4,)), "has the dimension -4"),
        (external("w", shape=(1,) * 65, length=4), "has 65 dimensions"),
        (external("nothing"), "needs the file 'nothing', which is missing"),
        (external("fifo"), "it is a pipe"),
        (external("zero"), "outside|it is a device"),
        (external("sub"), "it is a folder"),
        (external("w" * 5000), "too long"),
        (external("a\0b"), "names no file|no file can have"),
        (external(""), "points outside"),
        (TensorProto(name="t", data_type=99, dims=[1]), "unknown dtype 99"),
        (TensorProto(name="t", dims=[1]), "has no dtype"),
        (TensorProto(name="t", data_type=1, dims=[1 << 50]), "holds 0 elements where its shape needs"),
        (TensorProto(name="t", data_type=1, dims=[2], float_data=[1.0]), "holds 1 elements where its shape needs 2"),
        (TensorProto(name="t", data_type=8, dims=[2], string_data=[b"a"]), "holds 1 elements where its shape needs 2"),
        (TensorProto(name="t", data_type=1, dims=[2], raw_data=b"1234"), "holds 4 bytes where its shape needs 8"),
    ],
    ids=str,
)
def test_sizes_are_not_believed(tmp_path: Path, tensor: TensorProto, message: str) -> None:
    (tmp_path / "w").write_bytes(bytes(16))
    (tmp_path / "sub").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    proto = model()
    proto.graph.initializer.append(tensor)
    with pytest.raises(InvalidModel, match=message):
        list(check_tensors(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("dtype", sorted(set(helper.get_all_tensor_dtypes()) - {TensorProto.STRING}))
def test_every_dtype_as_numbers_and_as_bytes(tmp_path: Path, dtype: int) -> None:
    proto = model()
    for count in (0, 1, 3, 8):
        values = np.ones(count, helper.tensor_dtype_to_np_dtype(dtype))
        proto.graph.initializer.append(numpy_helper.from_array(values, f"raw{count}"))
        proto.graph.initializer.append(helper.make_tensor(f"numbers{count}", dtype, [count], values))
    assert list(check_tensors(proto, tmp_path / "m.onnx")) == []


def test_empty_tensors_need_no_file_but_must_stay_inside(tmp_path: Path) -> None:
    for location, is_fine in (("nothing", True), ("../secret", False)):
        proto = model()
        proto.graph.initializer.append(external(location, offset=99, length=0, shape=(0, 3)))
        if is_fine:
            assert list(check_tensors(proto, tmp_path / "m.onnx")) == []
            assert numpy_helper.to_array(proto.graph.initializer[0]).shape == (0, 3)
        else:
            with pytest.raises(InvalidModel, match="points outside"):
                list(check_tensors(proto, tmp_path / "m.onnx"))


def test_data_beside_the_model_or_below_it_is_gathered_and_loaded(tmp_path: Path) -> None:
    values = {name: np.arange(4, dtype=np.float32) + offset for name, offset in (("a", 0), ("sub/b", 7))}
    (tmp_path / "sub").mkdir()
    proto = model()
    for name, array in values.items():
        (tmp_path / name).write_bytes(bytes(4) + array.tobytes())
        tensor = external(name, offset=4)
        tensor.name = name
        proto.graph.initializer.append(tensor)
    os.link(tmp_path / "a", tmp_path / "hard")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    gathered = read_model(path)
    assert gather_external_data(gathered, path) == tmp_path.resolve()
    for loaded in (read_model(path), gathered):
        load_external_data(loaded, path)
        assert not any(tensor.data_location for tensor in all_tensors(loaded))
        for tensor in loaded.graph.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), values[tensor.name])


def test_files_of_a_model_are_its_own_and_those_of_external_data(tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer.extend([external("a"), external("sub/b"), external("a\0")])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert set(model_files(path)) == {path, tmp_path / "a", tmp_path / "sub/b"}
    path.write_bytes(b"?")
    assert model_files(path) == [path]


def test_what_is_no_model_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    for name, message in (("fifo", "a pipe"), ("zero", "a device"), ("large", "over 2 GiB"), (".", "a folder")):
        with pytest.raises(InvalidModel, match=message):
            read_model(tmp_path / name)
