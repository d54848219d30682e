"""Hostile and broken model files end in one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.graph.model_loading import load_model
from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel, UnsupportedOperator


def refusal(path: Path) -> str:
    """Return the error message for a damaged model, if any; no error of another type may be raised."""
    try:
        Graph.read(path, {"batch": 1})
    except TrisectError as error:
        return str(error)
    return ""


def test_missing_empty_folder_and_text(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("this is no model, it only says so\n" * 20)
    for name in ("nowhere.onnx", "empty.onnx", "text.onnx", "."):
        with pytest.raises(InvalidModel) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = small_models.mlp(tmp_path / "whole.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for end in range(1, len(whole), 97):
        cut.write_bytes(whole[:end])
        # A cut can fall between two fields, and then leaves a smaller sound model without its weights or outputs.
        assert "\n" not in refusal(cut)


def test_flipped_bytes_never_escape_the_error_tree(tmp_path: Path) -> None:
    whole = bytearray(small_models.mlp(tmp_path / "whole.onnx", layers=1, width=2).read_bytes())
    flipped = tmp_path / "flipped.onnx"
    for position in range(len(whole)):
        copy = bytearray(whole)
        copy[position] ^= 0xFF
        flipped.write_bytes(copy)
        assert "\n" not in refusal(flipped)


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "a/../../weights.data", "..\\weights.data", ""])
def test_external_data_must_stay_beside_the_model(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.data").write_bytes(b"\0" * 100_000)
    with pytest.raises(InvalidModel, match=r"outside|missing"):
        load_model(small_models.external(folder, location))


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_external_data_may_not_leave_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = small_models.external(folder)
    (folder / "weights.data").rename(tmp_path / "elsewhere")
    (folder / "weights.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidModel, match="outside"):
        load_model(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_download_cache_of_links_is_read(tmp_path: Path) -> None:
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    snapshot.mkdir()
    small_models.external(store)
    (snapshot / "model.onnx").symlink_to(store / "model.onnx")
    (snapshot / "weights.data").symlink_to(store / "weights.data")
    tensor = load_model(snapshot / "model.onnx").graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy()[0, 1] == np.float32(1 / 4096)


def test_external_data_missing_short_or_of_another_size(tmp_path: Path) -> None:
    path = small_models.external(tmp_path)
    data = tmp_path / "weights.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(InvalidModel, match="needs 16384 bytes"):
        load_model(path)
    data.unlink()
    with pytest.raises(InvalidModel, match="missing"):
        load_model(path)
    data.write_bytes(whole)
    for length in (0, 4, 1 << 60, -1):
        with pytest.raises(InvalidModel, match="needs 16384 bytes"):
            load_model(small_models.external(tmp_path, length=length))


def test_sizes_that_lie_are_not_allocated(tmp_path: Path) -> None:
    model = onnx.load(small_models.mlp(tmp_path / "m.onnx"))
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="where its shape needs"):
        load_model(tmp_path / "m.onnx")


def test_cycle_unknown_operator_unknown_domain_new_opset(tmp_path: Path) -> None:
    def saved(nodes: list[onnx.NodeProto], opset: int = 17) -> Path:
        info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("x", "y")]
        graph = helper.make_graph(nodes, "g", info[:1], info[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    circle = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(InvalidModel, match="cycle"):
        load_model(saved([*circle, helper.make_node("Relu", ["b"], ["y"])]))
    with pytest.raises(UnsupportedOperator, match="'odd' is a Frobnicate"):
        load_model(saved([helper.make_node("Frobnicate", ["x"], ["y"], name="odd")]))
    with pytest.raises(InvalidModel, match=r"own\.domain"):
        load_model(saved([helper.make_node("Relu", ["x"], ["y"], domain="own.domain")]))
    with pytest.raises(UnsupportedModel, match="opset 999"):
        load_model(saved([helper.make_node("Relu", ["x"], ["y"])], opset=999))


def test_names_are_unique_and_stable(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    names = [node.name for node in load_model(path).graph]
    assert names == ["MatMul_0", "Add_1", "Relu_2", "MatMul_3", "Add_4", "Relu_5"]
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = "Add_1"
    path.write_bytes(model.SerializeToString())
    names = [str(node.name) for node in load_model(path).graph]
    assert len(set(names)) == 6
    assert names == [str(node.name) for node in load_model(path).graph]


def test_functions_are_inlined(tmp_path: Path) -> None:
    assert [node.op_type for node in load_model(small_models.with_function(tmp_path / "f.onnx")).graph] == [
        "Add",
        "Add",
    ]


def test_functions_that_call_each_other_are_counted_before_they_are_inlined(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def write(depth: int, last_op: str) -> None:
        imports = 'opset_import: ["": 18, "my": 1]'
        bodies = [f"b = my.F{i + 1}(a) c = my.F{i + 1}(b)" for i in range(depth)] + [f"c = {last_op}(a)"]
        functions = [f'<domain: "my", {imports}> F{i} (a) => (c) {{ {body} }}' for i, body in enumerate(bodies)]
        graph = f"<ir_version: 10, {imports}> g (float[4] x) => (float[4] y) {{ y = my.F0(x) }}"
        path.write_bytes(parser.parse_model(" ".join((graph, *functions))).SerializeToString())

    write(10, "Relu")
    assert [node.op_type for node in load_model(path).graph] == ["Relu"] * 2**10
    write(30, "Relu")
    assert "its 62 nodes become 1.07e+09 when functions are inlined" in refusal(path)
    write(3, "my.F0")
    assert "function 'F0' calls itself" in refusal(path)
