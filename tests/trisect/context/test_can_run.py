"""Answers before a download: the same with and without weights, bounded for hostile input, recorded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import trisect
from tests.llm.architecture_files import write_architecture
from tests.llm.gguf_factory import write_tiny_gguf
from tests.trisect.context.tflite_factory import write_tflite
from trisect.bench.model_packages import known_files
from trisect.context.can_run import best_of, can_run
from trisect.context.history import History
from trisect.context.sources import describe_model
from trisect.llm.generate import open_bundle
from trisect.llm.importing.model_import import open_model
from trisect.llm.phases.model_memory import ModelSizes, memory_need
from trisect.profiles.capabilities import compile_verdicts
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRISECT_HISTORY", str(tmp_path / "history.sqlite"))


def with_weights(path: Path) -> Path:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]>'
        " g (float[n, 64] x) => (float[n, 8] y) { h = MatMul (x, w) y = Relu (h) }"
    )
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, path)
    return path


def without_weights(source: Path, target: Path) -> Path:
    """As a hub would show it: the graph, and its external data not fetched."""
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
            size_bytes = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "never_fetched.bin"), ("offset", "0"), ("length", str(size_bytes))):
                tensor.external_data.add(key=key, value=value)
    target.write_bytes(model.SerializeToString())
    return target


def abilities(answer) -> dict:
    return {device: (support.ability, support.reasons) for device, support in answer.devices.items()}


def test_a_graph_is_assessed_the_same_without_its_weights(tmp_path: Path):
    whole = with_weights(tmp_path / "model.onnx")
    bare = without_weights(whole, tmp_path / "bare.onnx")
    full, empty = can_run(whole, "cpu"), can_run(bare, "cpu")
    assert empty.kind == "ONNX without weights"
    assert abilities(full) == abilities(empty)
    assert full.memory_bytes == empty.memory_bytes == 64 * 8 * 4
    assert describe_model(whole).key == describe_model(bare).key
    assert full.notes == ("assumed n = 1",)


def known_models() -> list[object]:
    """Every published model; the large ones take seconds each."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if file.size_bytes > 5_000_000 else [])
        for name, file in sorted(known_files().items())
        if name.endswith(".onnx")
    ]


@pytest.mark.parametrize("name", known_models())
def test_real_models_are_assessed_the_same_without_their_weights(name: str, models: Path, tmp_path: Path):
    path = models / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    shapes = dict(known_files()[name].shapes)
    bare = without_weights(path, tmp_path / name)
    assert abilities(can_run(path, "cpu", shapes=shapes)) == abilities(can_run(bare, "cpu", shapes=shapes))


def test_a_second_question_is_answered_from_history_until_the_file_changes(tmp_path: Path):
    path = with_weights(tmp_path / "model.onnx")
    assert not can_run(path, "cpu").from_history
    assert can_run(path, "cpu").from_history
    assert not can_run(path, "cpu", shapes={"n": 4}).from_history
    path.write_bytes(path.read_bytes() + b"\x72\x00")
    assert not can_run(path, "cpu").from_history
    History().clear()
    assert not can_run(path, "cpu").from_history


def test_a_damaged_history_has_a_note_and_a_full_disk_does_not_prevent_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = with_weights(tmp_path / "model.onnx")
    (tmp_path / "history.sqlite").write_bytes(b"garbage" * 1000)
    answer = can_run(path, "cpu")
    assert answer.ability == "yes"
    assert any("the history was damaged" in note for note in answer.notes)

    def full(*_: object) -> None:
        raise StorageFailed("no space left")

    monkeypatch.setattr(History, "record_answer", full)
    assert can_run(path, "cpu", shapes={"n": 7}).ability == "yes"


def test_a_configuration_gives_the_size_and_whether_it_fits():
    answer = can_run({"config": LLAMA_8B}, machine="nvidia-h200")
    assert answer.confidence == "medium"
    weights = answer.memory_bytes - 1024 * 4 * 32 * 8 * 128
    assert weights == pytest.approx(8.03e9 * 2, rel=0.01)  # 8.03 billion parameters, as its card says, two bytes each
    assert answer.devices["gpu:cuda"].decode_tok_s == pytest.approx(4.8e12 / weights, rel=0.01)
    huge = can_run({"config": {**LLAMA_8B, "num_hidden_layers": 2000}}, machine="nvidia-h200")
    assert huge.devices["gpu:cuda"].ability == "no"
    assert "but gpu:cuda has 141 GB" in huge.devices["gpu:cuda"].reasons[0]


def test_a_gguf_header_is_enough(tmp_path: Path):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    size = path.stat().st_size
    whole = can_run(path, "cpu")
    head = tmp_path / "head.gguf"
    head.write_bytes(path.read_bytes()[: size * 3 // 4])
    assert abilities(can_run(head, "cpu")) == abilities(whole)
    assert can_run(head, "cpu").memory_bytes == whole.memory_bytes
    head.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidModel):
        can_run(head, "cpu")


@pytest.mark.parametrize("variant", ["gemma3", "gemma2", "olmo3"])
def test_the_header_tells_which_layers_keep_a_window_only(tmp_path: Path, variant: str) -> None:
    path = write_architecture(tmp_path / "tiny.gguf", variant)
    sizes = describe_model(path).sizes
    assert sizes is not None
    assert sizes.kv_layers == open_model(path, folder=tmp_path / "bundle").kv_layers
    assert any(layer.window for layer in sizes.kv_layers)


def test_a_configuration_tells_which_layers_keep_a_window_only() -> None:
    config = {
        "model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "sliding_window": 512,
        "max_position_embeddings": 32768, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    sizes = describe_model({"name": "m", "config": config}).sizes
    assert sizes is not None
    assert [layer.window for layer in sizes.kv_layers] == [512, None, 512]


def test_memory_of_a_language_model_is_that_of_the_engine_and_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    bundle = open_bundle(path)
    tokens = bundle.context_length // 2
    for id_, support in can_run(path, "cpu", context_tokens=tokens).devices.items():
        imported = memory_need(ModelSizes.of(bundle), find_devices(id_), tokens)
        assert support.memory is not None
        assert support.memory.cache_bytes == imported.cache_bytes
        assert support.memory.activation_bytes == imported.activation_bytes
        assert support.memory.total_bytes == pytest.approx(imported.total_bytes, rel=0.01)
        assert support.max_context_tokens == bundle.context_length
    small = replace(find_devices("cpu:ort")[0], memory_bytes=support.memory.total_bytes)
    monkeypatch.setattr(trisect.api, "usable_devices", lambda *_, **__: [small])
    refused = can_run(path, context_tokens=bundle.context_length).devices["cpu:ort"]
    assert refused.ability == "no"
    assert refused.max_context_tokens == tokens
    assert f"a context of {tokens} tokens fits" in refused.reasons[0]
    with pytest.raises(InvalidInput):
        can_run(path, context_tokens=0)


@pytest.mark.parametrize(
    ("listing", "memory_bytes"),
    [
        ({"name": "owner/model-7b-int4"}, 7e9 * 4.5 / 8),
        ({"name": "m", "tags": ["135M", "fp16"]}, 135e6 * 2),
        ({"name": "m-1.5B", "files": ["onnx/model_q4.onnx"]}, 1.5e9 * 4.5 / 8),
        ({"name": "m-1.5B", "files": ["m-IQ4_XS.gguf"]}, 1.5e9 * 4.25 / 8),
        ({"name": "m", "files": {"model.onnx": 1000, "model.onnx_data": 500_000}}, 501_000),
    ],
)
def test_names_alone_give_an_answer_of_low_confidence(listing: dict, memory_bytes: float):
    answer = can_run(listing, "cpu")
    assert answer.memory_bytes == pytest.approx(memory_bytes)
    assert (answer.confidence, answer.ability) == ("low", "unknown")


def test_unsupported_formats_are_refused_by_name():
    unknown = can_run({"config": {**LLAMA_8B, "model_type": "rwkv7"}}, "cpu")
    assert unknown.ability == "no"
    assert "the architecture 'rwkv7' is not supported" in unknown.devices["cpu:ort"].reasons[0]
    torch_only = can_run({"name": "m-7b", "files": ["model.safetensors"]}, "cpu")
    assert torch_only.ability == "no"


def test_weights_of_transformers_count_with_all_their_parts():
    files = {"config.json": 1, "tokenizer.json": 2, "a-1.safetensors": 3_000, "a-2.safetensors": 4_000}
    described = describe_model({"name": "m", "files": files, "config": {**LLAMA_8B, "model_type": "gemma3_text"}})
    assert (described.weight_bytes, described.refused) == (7_000, "")


def test_the_best_of_several_forms_is_the_one_that_runs(tmp_path: Path):
    small = with_weights(tmp_path / "model.onnx")
    candidates = [{"name": "owner/model-500b"}, small, {"name": "m", "files": ["model.safetensors"]}]
    index, answers = best_of(candidates, "cpu")
    assert index == 1
    assert [answer.ability for answer in answers] == ["no", "yes", "no"]
    with pytest.raises(InvalidInput, match="none of the candidates"):
        best_of(candidates[::2], "cpu")


@pytest.mark.parametrize(
    "source",
    [
        {"config": {"hidden_size": 10**30, "num_hidden_layers": 1, "num_attention_heads": 1}},
        {"config": {**LLAMA_8B, "num_hidden_layers": -1}},
        {"config": []},
        {"files": "model.onnx"},
        {"files": ["x" * 100_000]},
        {"files": [f"{i}" for i in range(100_000)]},
        {"files": {"model.onnx": -5}},
        {"name": 7},
        {},
    ],
)
def test_hostile_metadata_is_refused_in_one_line(source: dict):
    with pytest.raises(TrisectError) as caught:
        can_run(source, "cpu")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe" * 50, b"[1, 2]", b'{"a": ' * 5000, b'{"hidden_size": "big", "num_hidden_layers": 3}'],
)
def test_a_hostile_config_file_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InvalidModel):
        can_run(path, "cpu")


def test_weights_of_absurd_size_are_refused_before_anything_is_written(tmp_path: Path):
    model = onnx.load(with_weights(tmp_path / "model.onnx"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    del tensor.dims[:]
    tensor.dims.extend([1 << 40, 1 << 20])
    (tmp_path / "huge.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="too large"):
        can_run(tmp_path / "huge.onnx", "cpu")


def claiming(path: Path, rows: int, columns: int) -> Path:
    """A model of a few bytes that claims missing weights."""
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[rows, columns], data_location=TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value="missing.bin")
    text = f"g (float[1, {rows}] x) => (float[1, {columns}] y) {{ y = MatMul (x, w) }}"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    model.graph.initializer.append(weight)
    path.write_bytes(model.SerializeToString())
    return path


def test_no_engine_is_asked_about_weights_beyond_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_verdicts, "isolated_compile_failure", lambda *_: pytest.fail("asked"))
    answer = can_run(claiming(tmp_path / "m.onnx", 1 << 21, 1 << 20), "cpu")
    assert answer.ability == "no"
    assert all(reasons[0].startswith("needs 8.8e+03 GB, but cpu:") for _, reasons in abilities(answer).values())


def test_inputs_and_outputs_beyond_its_memory_are_no_question_for_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compile_verdicts, "isolated_compile_failure", lambda *_: pytest.fail("asked"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [10**12]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    answer = can_run(tmp_path / "m.onnx", "cpu")
    assert answer.ability == "no"
    assert all(reasons[0].startswith("needs 8e+03 GB, but cpu:") for _, reasons in abilities(answer).values())


def test_missing_weights_take_no_space_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    used_bytes = []

    def ask(model: Path, _: object) -> str:
        used_bytes.append(sum(file.stat().st_blocks * 512 for file in model.parent.iterdir()))
        return ""

    monkeypatch.setattr(compile_verdicts, "isolated_compile_failure", ask)
    assert can_run(claiming(tmp_path / "m.onnx", 1 << 14, 1 << 13), "cpu:ort").ability == "yes"
    assert used_bytes
    assert max(used_bytes) < 1 << 20


def test_a_tflite_file_lists_its_operators(tmp_path: Path):
    import tflite as schema

    operator = schema.BuiltinOperator
    description = describe_model(
        write_tflite(tmp_path / "m.tflite", [operator.CONV_2D, operator.SOFTMAX, operator.HARD_SWISH])
    )
    assert description.operators == {"Conv", "softmax", "HardSwish"}
    assert "convert it to ONNX" in description.notes[0]
    refused = describe_model(write_tflite(tmp_path / "c.tflite", [operator.CUSTOM], custom="MyOwnOp"))
    assert "MyOwnOp" in refused.refused
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes((tmp_path / "m.tflite").read_bytes()[:12])
    with pytest.raises(InvalidModel, match="malformed TFLite"):
        describe_model(damaged)


def test_a_folder_counts_its_files(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x" * 100)
    (tmp_path / "onnx" / "model.onnx_data").write_bytes(b"x" * 900)
    assert describe_model(tmp_path).weight_bytes == 1000


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(InvalidInput, match="no model at"):
        can_run(tmp_path / "missing.onnx")


def test_a_large_graph_is_answered_from_the_store(tmp_path: Path):
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(2000)]
    ends = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [4]) for i in (0, 2000)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    path = tmp_path / "long.onnx"
    onnx.save(model, path)
    first = trisect.can_run(path, "cpu:ort")
    again = trisect.can_run(path, "cpu:ort")
    assert again.from_history
    assert abilities(first) == abilities(again)


def test_a_history_that_cannot_be_used_does_not_fail_an_answer(model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    expected = can_run(model, "cpu:ort", history=History(tmp_path / "new.sqlite"))
    assert can_run(model, "cpu:ort", history=History(blocked / "history.sqlite")) == expected
