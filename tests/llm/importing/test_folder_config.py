"""The configuration of model folders is read and validated: graph, sizes, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm.imported_folders import IDS, imported, last_scores, scores_of
from tests.llm.llm_folder_factory import (
    HEAD_DIM,
    TEMPLATE,
    write_genai_folder,
    write_optimum_folder,
)
from trisect.llm.importing.folder_config import choose_graph, is_model_folder, read_folder_tokenizer
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidModel, UnsupportedModel


def test_transformers_js_has_its_graphs_in_a_subfolder(tmp_path: Path) -> None:
    source = write_optimum_folder(tmp_path / "m", file="onnx/model_q4.onnx", external=True, head_dim=HEAD_DIM)
    assert is_model_folder(source)
    bundle = imported(source)
    np.testing.assert_allclose(scores_of(bundle, "ort"), last_scores(source / "onnx" / "model_q4.onnx", IDS), atol=1e-4)
    assert "model_q4.onnx" in bundle.notes[0]


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (["onnx/model_q4.onnx", "onnx/model.onnx"], "onnx/model.onnx"),
        (["onnx/model.onnx", "model.onnx"], "model.onnx"),
        (["model_q4f16.onnx", "model_q4.onnx", "model_int8.onnx"], "model_q4.onnx"),
        (["a.onnx"], "a.onnx"),
        (["a.onnx", "b.onnx"], None),
        (["config.json"], None),
    ],
)
def test_the_best_graph_is_chosen(offered: list[str], taken: str | None) -> None:
    assert choose_graph(offered) == taken


def test_folders_without_a_language_model(tmp_path: Path) -> None:
    assert not is_model_folder(tmp_path)
    assert not is_model_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    assert not is_model_folder(tmp_path)


def test_prompting(tmp_path: Path) -> None:
    folder = write_genai_folder(tmp_path / "m")
    tokenizer = Tokenizer.load(imported(folder).folder)
    # Those of the configuration first; the one that the tokenizer's own settings name ends turns, so it counts too.
    assert tokenizer.prompting.eos_ids == (2, 5, 4)
    assert tokenizer.prompting.bos_id == 1
    assert tokenizer.encode_chat([{"role": "user", "content": "w9 w10"}]) == [3, 9, 10, 4]


@pytest.mark.parametrize(
    ("settings", "file", "expected"),
    [
        ({"chat_template": TEMPLATE}, None, TEMPLATE),
        ({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": [{"name": "rag", "template": "r"}]}, None, "r"),
        ({"chat_template": TEMPLATE}, "from the file", "from the file"),
        ({"chat_template": 3}, None, None),
        ({}, None, None),
    ],
)
def test_chat_templates(tmp_path: Path, settings: dict[str, Any], file: str | None, expected: str | None) -> None:
    folder = write_optimum_folder(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if file:
        (folder / "chat_template.jinja").write_text(file)
    assert read_folder_tokenizer(folder).prompting.chat_template == expected


def test_generation_settings_count_before_the_model_s(tmp_path: Path) -> None:
    folder = write_optimum_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5]}')
    (folder / "tokenizer_config.json").unlink()
    assert read_folder_tokenizer(folder).prompting.eos_ids == (5,)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"num_key_value_heads": 4}, r"past_key_values.0.key is \[None, 2, None, 16\]"),
        ({"num_key_value_heads": None}, r"past_key_values.0.key"),  # as many as there are heads
        ({"hidden_size": 128}, "16"),
        ({"vocab_size": 97}, "logits"),
        ({"num_hidden_layers": 3}, "lacks past_key_values.2.key"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
        ({"max_position_embeddings": None}, "lacks max_position_embeddings"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings = 'many'"),
        ({"eos_token_id": 4000}, "4000"),
    ],
)
def test_a_configuration_that_contradicts_the_graph(tmp_path: Path, entries: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidModel, match=says):
        imported(write_optimum_folder(tmp_path / "m", **entries))


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000, "\udcff"])
def test_a_damaged_configuration(tmp_path: Path, content: str) -> None:
    source = write_genai_folder(tmp_path / "m")
    (source / "genai_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidModel, match=r"genai_config\.json"):
        imported(source)


@pytest.mark.parametrize("filename", ["../model.onnx", "/etc/passwd", "sub/model.onnx", 3, "gone.onnx"])
def test_the_graph_has_to_be_beside_its_configuration(tmp_path: Path, filename: object) -> None:
    source = write_genai_folder(tmp_path / "m", decoder={"filename": filename})
    with pytest.raises(InvalidModel, match="graph"):
        imported(source)


def test_a_pipeline_of_graphs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="several graphs"):
        imported(write_genai_folder(tmp_path / "m", decoder={"pipeline": []}))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")
    (source / "tokenizer.json").unlink()
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        imported(source)
