"""Folders of onnxruntime-genai, optimum and transformers.js: the bundle made of one computes what the original does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.llm.imported_folders import IDS, imported, last_scores, scores_of
from tests.llm.llm_folder_factory import (
    CONTEXT,
    DATA_FILE,
    HEAD_DIM,
    KV_HEADS,
    LAYERS,
    VOCAB,
    Build,
    edit_graph,
    write_genai_folder,
    write_optimum_folder,
)
from trisect.llm.bundle import Bundle
from trisect.llm.importing.folder_import import import_folder
from trisect.llm.importing.model_import import open_model
from trisect.runtime.errors import InvalidModel


def test_the_description_of_the_bundle(tmp_path: Path) -> None:
    bundle = imported(write_genai_folder(tmp_path / "tiny.1"))
    sizes = (
        bundle.layers,
        bundle.kv_layers[0].kv_heads,
        bundle.kv_layers[0].head_dim,
        bundle.vocab,
        bundle.context_length,
    )
    assert sizes == (LAYERS, KV_HEADS, HEAD_DIM, VOCAB, CONTEXT)
    per_layer = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 64 * 96
    assert bundle.flops_per_token == 2 * LAYERS * per_layer
    assert bundle.decode_bytes_per_token == 4 * (LAYERS * per_layer + 64 * VOCAB)
    assert bundle.weights_bytes == (tmp_path / "tiny.1" / DATA_FILE).stat().st_size
    assert bundle.name == "tiny.1"
    assert {(g.cache, g.engines) for g in bundle.graphs} == {("grown", ("openvino",)), ("in-place", ())}


def test_work_of_products_in_blocks(tmp_path: Path) -> None:
    whole, blocks = (imported(write_genai_folder(tmp_path / f"{i}", Build(int4=i))) for i in (False, True))
    assert blocks.flops_per_token == whole.flops_per_token
    assert blocks.decode_bytes_per_token == whole.decode_bytes_per_token * (16 + 4) // 128


def test_the_context_is_limited_by_the_rotary_tables(tmp_path: Path) -> None:
    bundle = imported(write_genai_folder(tmp_path / "m", context_length=10 * CONTEXT))
    assert bundle.context_length == CONTEXT
    assert "rotary embedding tables" in bundle.notes[0]


def test_weights_are_linked_if_the_file_system_allows(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")
    bundle = imported(source)
    (linked,) = [p for p in Path(bundle.folder).iterdir() if p.samefile(source / DATA_FILE)]
    locations = set()
    for graph in bundle.graphs:
        model = onnx.load(Path(bundle.folder) / graph.file, load_external_data=False)
        for tensor in model.graph.initializer:
            locations |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    assert locations == {linked.name}


def test_weights_are_copied_if_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = write_genai_folder(tmp_path / "m")
    messages: list[tuple[float, str]] = []
    folder = tmp_path / "bundle"
    folder.mkdir()
    import_folder(source, folder, progress=lambda done, total, what: messages.append((done / total, what))).save(folder)
    assert (1.0, f"copying {DATA_FILE}") in messages
    (source / DATA_FILE).rename(source / "gone")
    assert np.isfinite(scores_of(Bundle.load(folder), "ort")).all()


def test_weights_inside_the_graph_are_written_once_for_both(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")
    expected = last_scores(source / "model.onnx", IDS)
    onnx.save(onnx.load(source / "model.onnx"), source / "model.onnx", save_as_external_data=False)
    size_bytes = (source / DATA_FILE).stat().st_size
    (source / DATA_FILE).unlink()
    bundle = imported(source)
    sizes = {p.name: p.stat().st_size for p in Path(bundle.folder).iterdir()}
    assert sizes["weights.bin"] <= size_bytes + 4096 * 30  # each of its arrays starts at a page
    assert max(sizes["in_place.onnx"], sizes["standard.onnx"]) < 20_000
    for engine in ("ort", "openvino"):
        np.testing.assert_allclose(scores_of(bundle, engine), expected, atol=1e-4)


def test_a_folder_is_imported_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    source = write_optimum_folder(tmp_path / "m", file="onnx/model.onnx")
    first = open_model(source)
    assert open_model(source) == first
    edit_graph(source / "onnx" / "model.onnx", lambda model: setattr(model, "producer_name", "another"))
    assert open_model(source).folder != first.folder


# ---- tokenizer and prompting


# ---- what is refused


@pytest.mark.parametrize("location", ["../outside.bin", "{outside}", "link.bin", "missing.bin"])
def test_weights_outside_the_folder_are_rejected(tmp_path: Path, location: str) -> None:
    source = write_genai_folder(tmp_path / "m")
    outside = tmp_path / "outside.bin"
    (source / DATA_FILE).rename(outside)
    (source / "link.bin").symlink_to(outside)

    def point(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location.format(outside=outside)

    edit_graph(source / "model.onnx", point)
    with pytest.raises(InvalidModel, match=r"outside the model's folder|missing"):
        imported(source)


def test_a_failed_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    source = write_genai_folder(tmp_path / "m")
    with (source / DATA_FILE).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InvalidModel, match="needs"):
        open_model(source)
    assert list((tmp_path / "bundles").iterdir()) == []
