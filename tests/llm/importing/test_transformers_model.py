"""A folder of transformers gives the same model as a GGUF file made from it; hostile files are refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.llm.architecture_files import (
    EXPERT_FFN,
    EXPERTS,
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    WINDOW,
    write_architecture,
)
from trisect.llm.architectures import read_config
from trisect.llm.gguf.quantised_blocks import dequantise
from trisect.llm.importing.model_import import open_model
from trisect.llm.importing.transformers_config import read_transformers_config
from trisect.llm.importing.transformers_model import read_transformers_model
from trisect.llm.running.generation import LanguageSession
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import InvalidModel, TrisectError, UnsupportedModel

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3": {"model_type": "llama", "rope_scaling": LLAMA3},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3"},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 4},
    "gemma2": {
        "model_type": "gemma2", "sliding_window": WINDOW, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0,
        "query_pre_attn_scalar": HEAD_DIM, "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3": {
        "model_type": "gemma3_text", "sliding_window": WINDOW, "rope_theta": 1e6, "rope_local_base_freq": 10000,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 2),
    },
    "phi3": {"model_type": "phi3"},
    "granite": {
        "model_type": "granite", "embedding_multiplier": 3, "residual_multiplier": 0.5, "logits_scaling": 2.5,
        "attention_multiplier": 0.3,
    },
    "olmo2": {"model_type": "olmo2"},
    "qwen3moe": {
        "model_type": "qwen3_moe", "num_experts": EXPERTS, "num_experts_per_tok": 3, "norm_topk_prob": True,
        "moe_intermediate_size": EXPERT_FFN, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
}  # fmt: skip
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "attn_norm": "input_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate", "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip


def llama3_factors() -> np.ndarray:
    """The rule of Llama 3's own code: fast frequencies stay, slow ones are divided, those between are blended."""
    factors = []
    for index in range(HEAD_DIM // 2):
        wavelength = 2 * math.pi * 10000 ** (2 * index / HEAD_DIM)
        if wavelength < 64 / 4:
            factors.append(1.0)
        elif wavelength > 64 / 1:
            factors.append(8.0)
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors)


def write_folder(folder: Path, source: Path, variant: str) -> Path:
    """The weights of a GGUF file as transformers has them, in two files."""
    folder.mkdir()
    reader = gguf.GGUFReader(source)
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        kind = tensor.tensor_type.name
        array = np.asarray(tensor.data).view({"F32": np.float32}.get(kind, np.uint16)).reshape(shape)
        parts = tensor.name.split(".")
        if tensor.name.startswith("rope_f"):
            continue
        if parts[0] == "blk" and parts[2].endswith("_exps"):
            kind_of_product = parts[2].removeprefix("ffn_").removesuffix("_exps")
            for number, expert in enumerate(array):
                stem = f"model.layers.{parts[1]}.mlp.experts.{number}.{kind_of_product}_proj"
                tensors[f"{stem}.weight"] = (kind, np.ascontiguousarray(expert))
            continue
        if parts[0] != "blk":
            plain = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
            name = f"{plain[parts[0]]}.weight"
        else:
            plain = dict(NAMES)
            if variant.startswith("gemma"):
                plain["ffn_norm"] = "pre_feedforward_layernorm"
            if variant == "phi3":
                plain["ffn_up"] = "mlp.gate_up_proj"
            name = f"model.layers.{parts[1]}.{plain[parts[2]]}.{parts[3]}"
            if variant in ("llama3", "smollm3", "granite") and parts[2] in ("attn_q", "attn_k"):
                heads = len(array) // HEAD_DIM
                array = array.reshape(heads, HEAD_DIM // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)
        if variant.startswith("gemma") and "norm" in tensor.name:
            array = array - np.float32(1)
        tensors[name] = (kind, np.ascontiguousarray(array))
    names = sorted(tensors)
    for part, chosen in enumerate((names[::2], names[1::2])):
        header, content = {"__metadata__": {"format": "pt"}}, b""
        for name in chosen:
            kind, array = tensors[name]
            end = len(content) + array.nbytes
            header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(content), end]}  # type: ignore[dict-item]
            content += array.tobytes()
        text = json.dumps(header).encode()
        (folder / f"model-{part}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    layers = int(reader.fields[f"{reader.fields['general.architecture'].contents()}.block_count"].contents())
    config = {
        "num_hidden_layers": layers, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "head_dim": HEAD_DIM,
        "num_key_value_heads": KV_HEADS, "intermediate_size": FFN, "max_position_embeddings": 256, "vocab_size": 384,
        "rms_norm_eps": 1e-5, "rope_theta": 10000, "hidden_act": "silu", "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | CONFIGS[variant]))
    return folder


@pytest.mark.parametrize(
    ("variant", "quant"), [(v, "F32") for v in CONFIGS] + [("qwen3", "BF16"), ("llama3", "F16"), ("qwen3moe", "BF16")]
)
def test_both_formats_give_the_same_scores(tmp_path: Path, variant: str, quant: str) -> None:
    tensors = {"rope_freqs.weight": llama3_factors()} if variant == "llama3" else {}
    source = write_architecture(tmp_path / "a.gguf", variant, quant=quant, tensors=tensors)
    expected = open_model(source, folder=tmp_path / "expected")
    folder = write_folder(tmp_path / "model", source, variant)
    shutil.copy(Path(expected.folder) / "tokenizer.json", folder)
    bundle = open_model(folder, folder=tmp_path / "bundle")
    assert (bundle.name, bundle.source, bundle.context_length) == ("model", "model", 256)
    assert bundle.weights_bytes == expected.weights_bytes
    ids = np.random.default_rng(1).integers(0, 384, 2 * WINDOW).tolist()
    (device,) = find_devices("cpu:ort")
    scores = []
    for each in (bundle, expected):
        with LanguageSession(each, device, device, precision="float32") as session:
            scores.append(session.scores(ids, [1]))
    # Gemma's norms are stored without their 1, which loses the last bit.
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4 if variant.startswith("gemma") else 1e-5)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    source = write_architecture(tmp_path / "a.gguf", "qwen3")
    folder = write_folder(tmp_path / "model", source, "qwen3")
    shutil.copy(Path(open_model(source, folder=tmp_path / "expected").folder) / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported"),
        ({"model_type": ["x"]}, "is not supported"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"quantization_config": {"bits": 4}}, "already quantised"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "'dynamic' position scaling"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 0}}, "incomplete scaling"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"num_hidden_layers": 4000}, "4000 layers"),
        ({"num_hidden_layers": None}, "block_count is missing"),
        ({"vocab_size": 1 << 40}, "vocab_size = 1099511627776"),
        ({"vocab_size": 5}, "token_embd.weight has shape"),
        ({"head_dim": "x"}, "head_dim = x"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"rms_norm_eps": "small"}, "epsilon is 'small'"),
        ({"rms_norm_eps": "x" * 1000}, "epsilon is 'x{79}$|epsilon is 'x{79};"),
        ({"rms_norm_eps": -(10**400)}, "epsilon is -9007199254740992.0"),
        ({"rope_scaling": LLAMA3, "rope_theta": "x"}, "inconsistent scaling"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "no factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "mscale": 1.0}}, "mscale = 1.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": False}}, "truncate = False"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": 1e300}}, "blends between 1e.300"),
        ({"no_rope_layers": [1, 0]}, "other no_rope_layers"),
    ],
)
def test_hostile_configurations(model: Path, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises((InvalidModel, UnsupportedModel), match=reason) as caught:
        open_model(model, folder=tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a\\n\\u001b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b"", b"{}", b"[]", b"not json", b'{"a": 1}', b'{"a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999]}}',
        b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": ' * 5000,
    ],
)  # fmt: skip
def test_hostile_weights(model: Path, tmp_path: Path, header: bytes) -> None:
    for length in (len(header), 1 << 62):
        (model / "model-0.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\0" * 8)
        with pytest.raises(TrisectError) as caught:
            open_model(model, folder=tmp_path / "bundle")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "bundle").exists()


def test_experts_that_are_missing_or_weighted_otherwise_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", write_architecture(tmp_path / "a.gguf", "qwen3moe"), "qwen3moe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"norm_topk_prob": False}))
    with pytest.raises(UnsupportedModel, match="norm_topk_prob = False, expected True"):
        read_transformers_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model-0.safetensors"
    content = path.read_bytes()
    assert b".experts.0." in content
    path.write_bytes(content.replace(b".experts.0.", b".experts.9.", 1))
    with pytest.raises(InvalidModel, match=r"experts of blk.\d.ffn_\w+_exps.weight are not complete"):
        read_transformers_model(folder)


@pytest.mark.parametrize("attention_factor", [None, 1.5])
def test_yarn_in_the_terms_of_transformers(model: Path, attention_factor: float | None) -> None:
    config = json.loads((model / "config.json").read_text())
    scaling = {"type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2, "attention_factor": attention_factor}
    (model / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling, "use_sliding_window": None}))
    file = read_transformers_model(model)
    keys = {key: file.metadata[f"qwen3.rope.scaling.yarn_{key}"] for key in ("beta_fast", "beta_slow")}
    assert keys == {"beta_fast": 16, "beta_slow": 2}
    (rope,) = read_config(file).ropes
    assert rope.magnitude == pytest.approx(attention_factor or 0.1 * math.log(4) + 1)


def test_the_two_rotary_embeddings_of_transformers_5(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    del config["rope_theta"]
    full, local = (
        {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        {"rope_type": "default", "rope_theta": 500.0},
    )
    new = {"model_type": "gemma3_text", "rope_parameters": {"full_attention": full, "sliding_attention": local}}
    (model / "config.json").write_text(json.dumps(config | new))
    metadata = read_transformers_config(model).metadata
    bases = [metadata[f"gemma3.rope.{key}"] for key in ("freq_base", "freq_base_swa", "scaling.factor")]
    assert bases == [1e6, 500.0, 8.0]
    for changes in ({"model_type": "olmo3"}, {"rope_parameters": {"full_attention": full, "sliding_attention": full}}):
        (model / "config.json").write_text(json.dumps(config | new | changes))
        with pytest.raises(UnsupportedModel, match="another rotary embedding in its sliding_attention layers"):
            read_transformers_config(model)


@pytest.mark.parametrize("name", ["longrope", "su"])
def test_factors_of_longrope(model: Path, name: str) -> None:
    config = json.loads((model / "config.json").read_text())
    short, long = ([1 + step * at for at in range(HEAD_DIM // 2)] for step in (0.125, 2.0))
    scaling = {"type": name, "short_factor": short, "long_factor": long}
    lengths = {"max_position_embeddings": 4096, "original_max_position_embeddings": 128}
    (model / "config.json").write_text(json.dumps(config | lengths | {"model_type": "phi3", "rope_scaling": scaling}))
    converted = read_transformers_config(model)
    np.testing.assert_array_equal(converted.factors["rope_factors_short.weight"], np.float32(short))
    np.testing.assert_array_equal(converted.factors["rope_factors_long.weight"], np.float32(long))
    metadata = {key.removeprefix("phi3.rope.scaling."): value for key, value in converted.metadata.items()}
    assert (metadata["type"], metadata["original_context_length"]) == ("longrope", 128)
    assert metadata["attn_factor"] == pytest.approx(math.sqrt(1 + math.log(32) / math.log(128)))
    scaling["long_factor"] = [0]
    (model / "config.json").write_text(json.dumps(config | lengths | {"model_type": "phi3", "rope_scaling": scaling}))
    with pytest.raises(InvalidModel, match="no valid long_factor"):
        read_transformers_config(model)


def test_windows_are_used_only_on_request(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"sliding_window": 4}))  # `use_sliding_window` is false
    assert {layer.window for layer in read_config(read_transformers_model(model)).layers} == {None}


def write_tensors(path: Path, spans: dict[str, tuple[int, int]]) -> None:
    header = {
        name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for name, (begin, end) in spans.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(max(end for _, end in spans.values())))


def test_tensors_that_models_do_not_use_and_other_copies(model: Path, tmp_path: Path) -> None:
    before = read_transformers_model(model).tensors.keys()
    write_tensors(model / "model-9.safetensors", {"model.layers.0.self_attn.rotary_emb.inv_freq": (0, 64)})
    write_tensors(model / "consolidated.safetensors", {"layers.0.attention.wk.weight": (0, 64)})
    assert read_transformers_model(model).tensors.keys() == before


def test_tensors_that_overlap_or_stand_for_the_same(model: Path) -> None:
    write_tensors(model / "model-9.safetensors", {"a": (0, 8), "b": (4, 12)})
    with pytest.raises(InvalidModel, match="tensor b overlaps another"):
        read_transformers_model(model)
    write_tensors(model / "model-9.safetensors", {"norm.weight": (0, 8)})
    with pytest.raises(InvalidModel, match=r"two tensors of the model stand for output_norm\.weight"):
        read_transformers_model(model)


def test_a_header_that_would_make_millions_of_objects(model: Path) -> None:
    # Each kind takes a second and a gigabyte where its values are made before they are counted.
    for entry in (b'"%d":{},', b'"%d":[],', b'"%d":"",'):
        entries = b"".join(entry % at for at in range(600_000))
        text = b"{" + entries[:-1] + b"}"
        (model / "model-9.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(InvalidModel, match="a header of 600000 entries"):
            read_transformers_model(model)
    text = b'{"a":{"dtype":"F32","shape":[' + b"[]," * 5_000_000 + b"1]}}"
    (model / "model-9.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(InvalidModel, match="tensor a: Expected `int`, got `array`"):
        read_transformers_model(model)


def test_a_file_that_becomes_shorter_while_it_is_read(model: Path) -> None:
    tensor = read_transformers_model(model).tensors["token_embd.weight"]
    for path in model.glob("*.safetensors"):
        with path.open("r+b") as file:
            file.truncate(8)
    with pytest.raises(InvalidModel, match="safetensors became shorter while it was read"):
        dequantise(tensor)
