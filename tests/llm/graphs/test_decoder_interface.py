"""An adapted decoder computes what the original does, and unsupported inputs or outputs are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.llm.imported_folders import IDS, WRITERS, cache_of, imported, last_scores, runner, scores_of
from tests.llm.llm_folder_factory import (
    LAYERS,
    Build,
    edit_graph,
    write_genai_folder,
)
from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel


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
        expected_type = TensorProto.FLOAT16 if graph.kv_dtype == "float16" else TensorProto.FLOAT
        assert {i.type.tensor_type.elem_type for i in inputs if "past" in i.name} == {expected_type}


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


def test_tensor_names_come_from_the_configuration(tmp_path: Path) -> None:
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
def test_other_inputs_and_outputs_are_rejected_by_name(
    tmp_path: Path, kind: str, edit: Callable[[onnx.ModelProto], None], error: type[TrisectError], says: str
) -> None:
    source = WRITERS[kind](tmp_path / "m")
    edit_graph(source / "model.onnx", edit)
    with pytest.raises(error, match=says):
        imported(source)
