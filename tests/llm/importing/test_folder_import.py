"""Folders of onnxruntime-genai, optimum and transformers.js: the bundle made of one computes what the original does."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import trisect
from tests.llm.llm_folder_factory import (
    CONTEXT,
    DATA_FILE,
    HEAD_DIM,
    KV_HEADS,
    LAYERS,
    TEMPLATE,
    VOCAB,
    Build,
    edit_graph,
    write_genai_folder,
    write_optimum_folder,
)
from trisect.llm.bundle import Bundle
from trisect.llm.importing.folder_config import choose_graph, is_model_folder, read_folder_tokenizer
from trisect.llm.importing.folder_import import import_folder
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.runners import Runner, load_runner
from trisect.llm.running.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel
from trisect.runtime.progress import no_progress

IDS = np.random.default_rng(7).integers(6, VOCAB, 11)
WRITERS = {"genai": write_genai_folder, "optimum": write_optimum_folder}


def last_scores(model: Path, ids: np.ndarray) -> np.ndarray:
    """Scores after `ids` by the untouched graph, all of them computed anew; float32 [vocabulary]."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {}
    for spec in session.get_inputs():
        half = np.float16 if spec.type == "tensor(float16)" else np.float32
        feeds[spec.name] = {
            1: lambda: ids[None],
            2: lambda: np.ones((1, len(ids)), np.int64),
            3: lambda: np.arange(len(ids))[None],
            4: lambda dtype=half: np.zeros((1, KV_HEADS, 0, HEAD_DIM), dtype),
            5: lambda: np.array(1),
        }[
            5 if "num_logits" in spec.name else 4 if len(spec.shape) == 4 else 2 if "mask" in spec.name
            else 3 if "position" in spec.name else 1
        ]()  # fmt: skip
    scores: np.ndarray = session.run([session.get_outputs()[0].name], feeds)[0][0, -1]
    return scores.astype(np.float32)


def imported(source: Path) -> Bundle:
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    bundle = import_folder(source, folder, progress=no_progress)
    bundle.save(folder)
    return Bundle.load(folder)


def runner(bundle: Bundle, engine: str, **options: Any) -> Runner:
    device = next(d for d in trisect.devices("auto") if d.engine == engine)
    settings = {"threads": 1, "precision": "float32", "decodes": True, "exports_cache": False, **options}
    return load_runner(bundle, device, **settings)


def cache_of(bundle: Bundle) -> KvCache:
    return KvCache(bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.context_length, 4)


def scores_of(bundle: Bundle, engine: str, chunks: tuple[int, ...] = (6, 4, 1)) -> np.ndarray:
    made = runner(bundle, engine)
    made.reset(cache_of(bundle))
    start = 0
    for size in chunks:
        scores = made.forward(IDS[start : start + size], start)
        start += size
    return scores.copy()


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_bundle_computes_what_the_original_does(tmp_path: Path, kind: str, engine: str) -> None:
    source = WRITERS[kind](tmp_path / "m")
    bundle = imported(source)
    expected = last_scores(source / "model.onnx", IDS)
    np.testing.assert_allclose(scores_of(bundle, engine), expected, atol=1e-4)
    np.testing.assert_allclose(scores_of(bundle, engine, (11,)), expected, atol=1e-4)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("first", "second"), [("openvino", "ort"), ("ort", "openvino")])
def test_engines_hand_over_to_one_another(tmp_path: Path, kind: str, first: str, second: str) -> None:
    source = WRITERS[kind](tmp_path / "m")
    bundle = imported(source)
    cache = cache_of(bundle)
    prefill, decode = runner(bundle, first, exports_cache=True), runner(bundle, second)
    prefill.reset(cache)
    prefill.forward(IDS[:5], 0)
    prefill.forward(IDS[5:9], 5)
    decode.continue_from(cache)
    decode.forward(IDS[9:10], 9)
    np.testing.assert_allclose(decode.forward(IDS[10:], 10), last_scores(source / "model.onnx", IDS), atol=1e-4)


@pytest.mark.parametrize("kind", WRITERS)
def test_only_the_last_token_is_multiplied_with_the_vocabulary(tmp_path: Path, kind: str) -> None:
    bundle = imported(WRITERS[kind](tmp_path / "m"))
    for graph in bundle.graphs:
        nodes = onnx.load(Path(bundle.folder) / graph.file, load_external_data=False).graph.node
        (head,) = [node for node in nodes if "head.weight" in node.input]
        (gather,) = [node for node in nodes if head.input[0] in node.output]
        assert gather.op_type == "Gather"
    assert not bundle.notes


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        (lambda: Build(softcap=True), 1e-4),
        (lambda: Build(count_of_scores=True), 1e-4),
        (lambda: Build(positions=True), 1e-4),
        (lambda: Build(int4=True), 1e-4),
        (lambda: Build(tied_bits=4), 1e-4),
        (lambda: Build(tied_bits=8), 1e-4),
        # The scale of an activation in 8 bits is that of one token instead of all.
        (lambda: Build(dynamic_head=True), 5e-2),
        (lambda: Build(dtype=TensorProto.FLOAT16), 2e-2),
    ],
    ids=["softcap", "count-of-scores", "position-ids", "4-bits", "tied-4-bits", "tied-8-bits", "8-bit-head", "float16"],
)
def test_forms_that_exporters_write(tmp_path: Path, kind: str, build: Callable[[], Build], tolerance: float) -> None:
    source = WRITERS[kind](tmp_path / "m", build())
    bundle = imported(source)
    expected = last_scores(source / "model.onnx", IDS)
    for engine in ("ort", "openvino"):
        np.testing.assert_allclose(scores_of(bundle, engine), expected, atol=tolerance)
    assert bool(bundle.notes) == (build().dtype == TensorProto.FLOAT16)
    for graph in bundle.graphs:
        inputs = onnx.load(Path(bundle.folder) / graph.file, load_external_data=False).graph.input
        assert {i.type.tensor_type.elem_type for i in inputs if "past" in i.name} == {TensorProto.FLOAT}


def test_a_cache_that_other_operators_read_is_not_extended_in_place(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")

    def read_otherwise(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Identity", ["past_key_values.1.key"], ["copy"]))
        next(node for node in model.graph.node if "past_key_values.1.key" in node.input[3:]).input[3] = "copy"

    edit_graph(source / "model.onnx", read_otherwise)
    bundle = imported(source)
    assert [graph.cache for graph in bundle.graphs] == ["grown"]
    np.testing.assert_allclose(scores_of(bundle, "ort"), last_scores(source / "model.onnx", IDS), atol=1e-4)


def test_an_unknown_head_is_unchanged_and_has_a_note(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")

    def unusual(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if "logits" in node.output).op_type = "Softsign"

    edit_graph(source / "model.onnx", unusual)
    bundle = imported(source)
    np.testing.assert_allclose(scores_of(bundle, "ort"), last_scores(source / "model.onnx", IDS), atol=1e-4)
    assert "not recognised" in bundle.notes[0]


def test_names_are_those_that_the_configuration_gives(tmp_path: Path) -> None:
    names = {"input_ids": "ids", "logits": "scores_out"}
    names |= {f"present.{i}.{p}": f"out_{p}_{i}" for i in range(LAYERS) for p in ("key", "value")}
    options = {"inputs": {"input_ids": "ids"}, "outputs": {"logits": "scores_out", "present_key_names": "out_key_%d"}}
    options["outputs"]["present_value_names"] = "out_value_%d"
    source = write_genai_folder(tmp_path / "m", Build(names=names), decoder=options)
    np.testing.assert_allclose(scores_of(imported(source), "ort"), last_scores(source / "model.onnx", IDS), atol=1e-4)


def test_inner_tensors_may_have_the_names_of_inputs_and_outputs(tmp_path: Path) -> None:
    names = {"mask/seqlens": "seqlens_k", "mask/width": "total_sequence_length", "0/norm": "fresh.0.key"}
    names |= {"input_ids": "tokens", "1/norm": "input_ids"}
    source = write_genai_folder(tmp_path / "m", Build(names=names), decoder={"inputs": {"input_ids": "tokens"}})

    def use_elsewhere(model: onnx.ModelProto) -> None:  # as the choice between two rotation tables does
        model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Cast", ["seqlens_k"], ["c"], to=1))
        model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Sub", ["c", "c"], ["nothing"]))
        model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Add", ["scores", "nothing"], ["more"]))
        model.graph.node[-1].input[0] = "more"

    edit_graph(source / "model.onnx", use_elsewhere)
    expected = last_scores(source / "model.onnx", IDS)
    for engine in ("ort", "openvino"):
        np.testing.assert_allclose(scores_of(imported(source), engine), expected, atol=1e-4)


def test_what_the_bundle_says(tmp_path: Path) -> None:
    bundle = imported(write_genai_folder(tmp_path / "tiny.1"))
    sizes = (bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.vocab, bundle.context_length)
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


def test_context_ends_where_the_rotation_tables_do(tmp_path: Path) -> None:
    bundle = imported(write_genai_folder(tmp_path / "m", context_length=10 * CONTEXT))
    assert bundle.context_length == CONTEXT
    assert "rotary embedding tables" in bundle.notes[0]


def test_weights_are_linked_where_the_disk_allows(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")
    bundle = imported(source)
    (linked,) = [p for p in Path(bundle.folder).iterdir() if p.samefile(source / DATA_FILE)]
    locations = set()
    for graph in bundle.graphs:
        model = onnx.load(Path(bundle.folder) / graph.file, load_external_data=False)
        for tensor in model.graph.initializer:
            locations |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    assert locations == {linked.name}


def test_weights_are_copied_where_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_transformers_js_keeps_its_graphs_in_a_folder(tmp_path: Path) -> None:
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
def test_the_best_graph_is_taken(offered: list[str], taken: str | None) -> None:
    assert choose_graph(offered) == taken


def test_a_folder_is_imported_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    source = write_optimum_folder(tmp_path / "m", file="onnx/model.onnx")
    first = open_model(source)
    assert open_model(source) == first
    edit_graph(source / "onnx" / "model.onnx", lambda model: setattr(model, "producer_name", "another"))
    assert open_model(source).folder != first.folder


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert not is_model_folder(tmp_path)
    assert not is_model_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    assert not is_model_folder(tmp_path)


# ---- tokenizer and prompting


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


# ---- what is refused


def drop_layer(model: onnx.ModelProto) -> None:
    for values in (model.graph.input, model.graph.output):
        for value in [v for v in values if ".1." in v.name]:
            values.remove(value)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = name.replace("past_key_values.1", "past_key_values.0")


def add_input(name: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, [1]))

    return edit


def fix_past(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if "past" in value.name:
            value.type.tensor_type.shape.dim[2].dim_value = 7


def eight_bit_cache(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if "past" in value.name:
            value.type.tensor_type.elem_type = TensorProto.INT8


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (drop_layer, InvalidModel, r"past_key_values.1.key and 3 more"),
        (add_input("use_cache_branch"), UnsupportedModel, "use_cache_branch.*current optimum"),
        (add_input("encoder_hidden_states"), UnsupportedModel, "encoder_hidden_states"),
        (fix_past, UnsupportedModel, "dynamic axes"),
        (eight_bit_cache, UnsupportedModel, "past_key_values.0.key is int8"),
    ],
)
@pytest.mark.parametrize("kind", WRITERS)
def test_other_interfaces_are_refused_by_name(
    tmp_path: Path, kind: str, edit: Callable[[onnx.ModelProto], None], error: type[TrisectError], says: str
) -> None:
    source = WRITERS[kind](tmp_path / "m")
    edit_graph(source / "model.onnx", edit)
    with pytest.raises(error, match=says):
        imported(source)


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
def test_the_graph_lies_beside_its_configuration(tmp_path: Path, filename: object) -> None:
    source = write_genai_folder(tmp_path / "m", decoder={"filename": filename})
    with pytest.raises(InvalidModel, match="graph"):
        imported(source)


def test_a_pipeline_of_graphs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="several graphs"):
        imported(write_genai_folder(tmp_path / "m", decoder={"pipeline": []}))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    source = write_genai_folder(tmp_path / "m")
    (source / "tokenizer.json").unlink()
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        imported(source)


@pytest.mark.parametrize("location", ["../outside.bin", "{outside}", "link.bin", "missing.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
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
