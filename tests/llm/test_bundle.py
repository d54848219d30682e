"""A bundle's description is validated, and selects the graph for a device."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import BUNDLE_FILE, Bundle, PhaseGraph
from trisect.runtime.errors import EngineFailed, InvalidModel


@pytest.fixture
def folder(tiny_llms: TinyLlms, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llms.get().bundle.folder, tmp_path / "bundle"))


def change(folder: Path, **entries: Any) -> None:
    document = json.loads((folder / BUNDLE_FILE).read_text())
    (folder / BUNDLE_FILE).write_text(json.dumps(document | entries))


def test_saved_and_loaded_it_is_the_same(folder: Path) -> None:
    bundle = Bundle.load(folder)
    bundle.save(folder)
    assert Bundle.load(folder) == bundle
    assert bundle.folder == str(folder)
    assert str(folder) not in (folder / BUNDLE_FILE).read_text()


@pytest.mark.parametrize(
    "entries",
    [
        {"version": 1},
        {"version": "2"},
        {"layers": 0},
        {"layers": -3},
        {"layers": 1 << 40},
        {"kv_layers": []},
        {"kv_layers": [{"index": 0, "kv_heads": 0, "head_dim": 16}]},
        {"kv_layers": [{"index": 0, "kv_heads": 2, "head_dim": 1 << 40}]},
        {"kv_layers": [{"index": 2, "kv_heads": 2, "head_dim": 16}]},
        {"kv_layers": [{"index": 1, "kv_heads": 2, "head_dim": 16}, {"index": 0, "kv_heads": 2, "head_dim": 16}]},
        {"kv_layers": [{"index": 0, "kv_heads": 2, "head_dim": 16, "dtype": "int3"}]},
        {"context_length": 0},
        {"vocab": 0},
        {"graphs": []},
        {"graphs": [{"file": "missing.onnx", "cache": "grown"}]},
        {"graphs": [{"file": "../bundle/standard.onnx", "cache": "grown"}]},
        {"graphs": [{"file": "/etc/passwd", "cache": "grown"}]},
        {"graphs": [{"file": "standard.onnx", "cache": "elsewhere"}]},
        {"graphs": None},
        {"name": None},
    ],
)
def test_a_damaged_description_is_rejected(folder: Path, entries: dict[str, Any]) -> None:
    change(folder, **entries)
    with pytest.raises(InvalidModel, match="import the model again"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_malformed_descriptions_are_rejected(folder: Path, content: bytes) -> None:
    (folder / BUNDLE_FILE).write_bytes(content)
    with pytest.raises(InvalidModel, match="import the model again"):
        Bundle.load(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"holds no bundle\.json"):
        Bundle.load(tmp_path / "nowhere")
    (folder / "in_place.onnx").unlink()
    with pytest.raises(InvalidModel, match=r"lacks its graph 'in_place\.onnx'"):
        Bundle.load(folder)


def test_a_device_takes_the_graph_that_suits_its_engines_cache(folder: Path) -> None:
    bundle = Bundle.load(folder)
    ort, openvino = kit.device("cpu:ort"), kit.device("cpu:openvino")
    assert bundle.graph_for(openvino).file == "standard.onnx"
    assert bundle.graph_for(ort).file == "in_place.onnx"
    with pytest.raises(
        EngineFailed, match="another:0 cannot run language models: it is not available here; choose another device"
    ) as caught:
        bundle.graph_for(replace(ort, id="another:0", engine="another"))
    assert caught.value.device == "another:0"
    grown = replace(bundle, graphs=(PhaseGraph("standard.onnx", cache="grown", engines=("openvino",)),))
    assert grown.graph_for(ort).file == "standard.onnx"
    in_place = replace(bundle, graphs=(PhaseGraph("in_place.onnx", cache="in-place"),))
    with pytest.raises(EngineFailed, match="cpu:openvino cannot extend a KV cache in place"):
        in_place.graph_for(openvino)


def test_the_key_names_source_and_importer(folder: Path) -> None:
    bundle = Bundle.load(folder)
    keys = {bundle.key, replace(bundle, source_sha256="x").key, replace(bundle, importer="x").key}
    assert len(keys) == 3
    assert replace(bundle, folder="elsewhere", name="another").key == bundle.key
