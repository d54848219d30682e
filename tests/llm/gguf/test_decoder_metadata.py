"""The configuration is read from a model's metadata; unsupported and inconsistent models are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from trisect.llm.architectures import read_config
from trisect.llm.gguf.decoder_metadata import tensor_shapes
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.graphs.decoder_config import DecoderConfig
from trisect.runtime.errors import InvalidModel, UnsupportedModel


def config_of(path: Path, **changes: Any) -> DecoderConfig:
    return read_config(GgufFile.open(write_tiny_gguf(path / "tiny.gguf", **changes)))


@pytest.mark.parametrize(
    ("arch", "interleaved", "bias", "norm"),
    [("llama", True, False, False), ("mistral", True, False, False), ("qwen2", False, True, False),
     ("qwen3", False, False, True)],
)  # fmt: skip
def test_architectures(tmp_path: Path, arch: str, interleaved: bool, bias: bool, norm: bool) -> None:
    config = config_of(tmp_path, arch=arch)
    assert (config.rope_interleaved, config.qkv_bias, config.head_norm == "head") == (interleaved, bias, norm)
    assert (len(config.layers), config.hidden, config.heads, config.kv_heads, config.head_dim) == (2, 64, 4, 2, 16)
    assert (config.ffn, config.context_length, config.vocab) == (96, 256, 384)
    assert config.norm_epsilon == pytest.approx(1e-5)
    assert config.attention_scale == 0.25
    assert config.tied_embeddings


def test_shapes_cover_the_file(tmp_path: Path) -> None:
    file = GgufFile.open(write_tiny_gguf(tmp_path / "tiny.gguf", arch="qwen2", tied=False))
    assert tensor_shapes(read_config(file)) == {name: tensor.shape for name, tensor in file.tensors.items()}


def test_rope_matches_its_definition(tmp_path: Path) -> None:
    factors = np.array([1, 1, 1, 1, 2, 4, 8, 8])
    plain = config_of(tmp_path, metadata={"llama.rope.freq_base": 500000.0})
    assert plain.ropes[0].frequencies == pytest.approx([500000.0 ** (-2 * i / 16) for i in range(8)])
    scaled = config_of(tmp_path, metadata={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0})
    assert scaled.ropes[0].frequencies == pytest.approx([10000.0 ** (-2 * i / 16) / 4 for i in range(8)])
    unscaled = config_of(tmp_path, metadata={"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0})
    assert unscaled.ropes[0].frequencies[0] == 1
    llama3 = config_of(tmp_path, tensors={"rope_freqs.weight": factors})
    assert llama3.ropes[0].frequencies == pytest.approx([10000.0 ** (-2 * i / 16) / factors[i] for i in range(8)])
    cosines, sines = plain.ropes[0].table(7)
    assert cosines.dtype == sines.dtype == np.float32
    assert cosines.shape == sines.shape == (7, 8)
    assert cosines[5, 3] == pytest.approx(np.cos(5 * 500000.0 ** (-6 / 16)), abs=1e-7)
    assert sines[6, 0] == pytest.approx(np.sin(6), abs=1e-7)
    angles = np.arange(9001)[:, None] * np.array(plain.ropes[0].frequencies)
    for table, function in zip(plain.ropes[0].table(9001), (np.cos, np.sin), strict=True):
        np.testing.assert_array_equal(table, function(angles).astype(np.float32))


def test_values_one_a_layer(tmp_path: Path) -> None:
    assert config_of(tmp_path, metadata={"llama.attention.head_count_kv": [2, 2]}).kv_heads == 2
    with pytest.raises(UnsupportedModel, match="differs between layers"):
        config_of(tmp_path, metadata={"llama.attention.head_count_kv": [2, 1]})


def test_sliding_window_and_scale(tmp_path: Path) -> None:
    config = config_of(tmp_path, metadata={"llama.attention.sliding_window": 128, "llama.attention.scale": 0.5})
    assert config.layers[0].window == 128
    assert config.attention_scale == 0.5


UNSUPPORTED = {
    "mixture of experts": {"llama.expert_count": 8},
    "dynamic": {"llama.rope.scaling.type": "dynamic"},
    "only part of each head": {"llama.rope.dimension_count": 8},
    "another length": {"llama.attention.value_length": 8},
    "temperature": {"llama.attention.temperature_scale": 0.1},
}
INVALID = {
    "block_count is missing": {"llama.block_count": None},
    "embedding_length is 0": {"llama.embedding_length": 0},
    "head_count is -4": {"llama.attention.head_count": [-4]},
    "head_count is 4.5": {"llama.attention.head_count": 4.5},
    "head_count is 'four'": {"llama.attention.head_count": "four"},
    "3 key/value heads": {"llama.attention.head_count_kv": 3},
    "key/value heads of 2048": {
        f"llama.{key}": 2048 for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")
    },
    "feed_forward_length is": {"llama.feed_forward_length": 2**31},
    "4000 layers": {"llama.block_count": 4000},
    r"tensor blk\.2\.\w+\.weight is missing": {"llama.block_count": 3},
    "attn_q.weight has shape": {"llama.attention.head_count": 2, "llama.attention.key_length": 16},
    "epsilon is nan": {"llama.attention.layer_norm_rms_epsilon": float("nan")},
    "scaling.factor is nan": {"llama.rope.scaling.factor": float("nan")},
    "scaling.factor is -2": {"llama.rope.scaling.factor": -2.0},
    "context_length is 0": {"llama.context_length": 0},
    "context_length is True": {"llama.context_length": True},
    "freq_base is inf": {"llama.rope.freq_base": float("inf")},
    "no vocabulary": {"tokenizer.ggml.tokens": None},
    "token_embd.weight has shape": {"tokenizer.ggml.tokens": ["a", "b", "c"]},
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_rejects_what_it_would_compute_wrongly(tmp_path: Path, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        config_of(tmp_path, metadata=UNSUPPORTED[reason])


@pytest.mark.parametrize("reason", INVALID)
def test_rejects_inconsistencies(tmp_path: Path, reason: str) -> None:
    with pytest.raises(InvalidModel, match=reason):
        config_of(tmp_path, metadata=INVALID[reason])


def test_rejects_other_architectures_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"'mamba' is not supported, .*gemma3.*llama.*qwen3"):
        config_of(tmp_path, arch="mamba")


def test_rejects_tensors_that_are_never_used(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.attn_output\.bias"):
        config_of(tmp_path, tensors={"blk.0.attn_output.bias": np.zeros(64)})
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight"):
        config_of(tmp_path, arch="qwen2", tensors={"rope_freqs.weight": np.ones(8)})


def test_rejects_forged_rope_factors(tmp_path: Path) -> None:
    for factors in (np.zeros(8), np.ones(7), np.full(8, np.nan)):
        with pytest.raises(InvalidModel, match="rope_freqs"):
            config_of(tmp_path, tensors={"rope_freqs.weight": factors})
