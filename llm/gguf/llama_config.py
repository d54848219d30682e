"""Reads the configuration of a llama-like model from a GGUF file's metadata, and checks its tensors against it.

`read_config` guarantees that every tensor of the architecture is present with the right shape, and no other tensor: one
that is not used would mean that the model computes something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel

from .gguf_reader import GgufFile, Value
from .quantised_blocks import dequantise

_INTERLEAVED = {"llama": True, "mistral3": True, "qwen2": False, "qwen3": False}
"""Supported architectures, and whether rotary embeddings rotate neighbouring rows (True) or head halves (False)."""
ARCHITECTURES = tuple(_INTERLEAVED)
"""GGUF's names of the supported architectures."""

_ROPE_ROWS = 1 << 12
"""Positions of the rotary embedding that are computed at once."""


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a decoder of the llama family."""

    architecture: str
    """Name in the file; SmolLM, TinyLlama and Mistral 7B are ``llama`` there."""
    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of the feed-forward layer."""
    context_length: int
    vocab: int
    norm_epsilon: float
    attention_scale: float
    """Factor of the products of Q and K, usually ``head_dim ** -0.5``."""
    rope_frequencies: tuple[float, ...]
    """Radians per position, [head_dim / 2], including base, linear scaling and Llama 3's factors."""
    rope_interleaved: bool
    """Whether Q and K rows are in the order for interleaved rotation: see `quantised_blocks.half_rotation_order`."""
    sliding_window: int | None
    """Number of earlier tokens that attention sees; None = all."""
    tied_embeddings: bool
    """Whether ``token_embd.weight`` is the output projection too."""
    qkv_bias: bool
    qk_norm: bool
    """Whether every head of Q and K is normalised (RMS) before the rotary embedding."""


def read_config(file: GgufFile) -> LlamaConfig:
    """Read the configuration of a GGUF model, and check its tensors against it.

    Raises
    ------
    UnsupportedModel
        For an unsupported architecture, kind of layer or position scaling, with its name.
    InvalidModel
        If metadata or tensors are missing or inconsistent.
    """
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _INTERLEAVED:
        raise UnsupportedModel(
            f"{file.path.name} has the architecture {architecture!r}",
            remedy=f"supported are {', '.join(_INTERLEAVED)}",
        )
    keys = _ArchitectureMetadata(file, architecture)
    keys.refuse_nonzero("expert_count", "mixture of experts")
    keys.refuse_nonzero("attention.temperature_scale", "position-dependent attention temperature")
    hidden, heads = keys.integer("embedding_length", 1 << 20), keys.integer("attention.head_count", 1 << 14)
    kv_heads = keys.integer("attention.head_count_kv", 1 << 14, default=heads)
    head_dim = keys.integer("attention.key_length", 1 << 14, default=hidden // heads)
    if keys.integer("attention.value_length", 1 << 14, default=head_dim) != head_dim:
        raise keys.unsupported("values of another length than keys")
    if keys.integer("rope.dimension_count", 1 << 14, default=head_dim) != head_dim:
        raise keys.unsupported("rotary embeddings on only part of each head")
    if heads % kv_heads or head_dim % 2 or head_dim < 2:
        raise keys.invalid(f"{heads} heads, {kv_heads} key/value heads of {head_dim}")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise keys.invalid("it has no vocabulary")
    config = LlamaConfig(
        architecture=architecture,
        name=str(file.metadata.get("general.name", file.path.stem)),
        layers=keys.integer("block_count", 4096),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=keys.integer("feed_forward_length", 1 << 24),
        context_length=keys.integer("context_length", 1 << 31),
        vocab=len(tokens),
        norm_epsilon=keys.real("attention.layer_norm_rms_epsilon"),
        attention_scale=keys.real("attention.scale", default=0.0) or head_dim**-0.5,
        rope_frequencies=_rope_frequencies(file, keys, head_dim),
        rope_interleaved=_INTERLEAVED[architecture],
        sliding_window=keys.integer("attention.sliding_window", 1 << 31, default=0) or None,
        tied_embeddings="output.weight" not in file.tensors,
        qkv_bias=architecture == "qwen2" or "blk.0.attn_q.bias" in file.tensors,
        qk_norm=architecture == "qwen3",
    )
    _check_tensors(file, config, keys)
    return config


def rope_cache(config: LlamaConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines of the rotary embedding, float32 [length, head_dim / 2] each, one row per position."""
    frequencies = np.asarray(config.rope_frequencies)
    cosines, sines = (np.empty((length, len(frequencies)), np.float32) for _ in range(2))
    # The angles need float64, which a long table as a whole would multiply.
    for start in range(0, length, _ROPE_ROWS):
        rows = slice(start, min(start + _ROPE_ROWS, length))
        angles = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] * frequencies
        cosines[rows], sines[rows] = np.cos(angles), np.sin(angles)
    return cosines, sines


def tensor_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model with this configuration, named as in the file."""
    queries, keys_values = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab, config.hidden),
        "output_norm.weight": (config.hidden,),
    }
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab, config.hidden)
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (config.hidden,),
        "attn_q.weight": (queries, config.hidden),
        "attn_k.weight": (keys_values, config.hidden),
        "attn_v.weight": (keys_values, config.hidden),
        "attn_output.weight": (config.hidden, queries),
        "ffn_norm.weight": (config.hidden,),
        "ffn_gate.weight": (config.ffn, config.hidden),
        "ffn_up.weight": (config.ffn, config.hidden),
        "ffn_down.weight": (config.hidden, config.ffn),
    }
    if config.qkv_bias:
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys_values,), "attn_v.bias": (keys_values,)}
    if config.qk_norm:
        layer |= {"attn_q_norm.weight": (config.head_dim,), "attn_k_norm.weight": (config.head_dim,)}
    return shapes | {f"blk.{i}.{name}": shape for i in range(config.layers) for name, shape in layer.items()}


class _ArchitectureMetadata:
    """Metadata of one architecture, with every value checked as it is read."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self._architecture = architecture

    def integer(self, key: str, maximum: int, default: int | None = None) -> int:
        """Return an integer from 1 to `maximum`, or the default; a list with one per layer must hold equal ones."""
        value = self._get(key, default)
        if isinstance(value, np.ndarray):
            if value.size == 0 or (value != value[0]).any():
                raise self.unsupported(f"a {key} that differs between layers")
            value = value[0].item()
        if not isinstance(value, int) or isinstance(value, bool) or not (1 <= value <= maximum or value == default):
            raise self.invalid(f"{self._architecture}.{key} is {value!r}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0, or the default."""
        value = self._get(key, default)
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not (0 < value < math.inf or value == default)
        ):
            raise self.invalid(f"{self._architecture}.{key} is {value!r}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default))

    def refuse_nonzero(self, key: str, what: str) -> None:
        if self._get(key, 0) != 0:
            raise self.unsupported(what)

    def unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._file.path.name} ({self._architecture}) uses {what}, which is not supported")

    def invalid(self, what: str) -> InvalidModel:
        return InvalidModel(f"{self._file.path.name} is inconsistent: {what}", remedy="download it again")

    def _get(self, key: str, default: Value | None) -> Value:
        value = self._file.metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            raise self.invalid(f"{self._architecture}.{key} is missing")
        return value


def _rope_frequencies(file: GgufFile, keys: _ArchitectureMetadata, head_dim: int) -> tuple[float, ...]:
    scaling = keys.text("rope.scaling.type", "linear")
    factor = keys.real("rope.scaling.factor", default=0.0) or keys.real("rope.scale_linear", default=0.0) or 1.0
    if scaling not in ("none", "linear"):
        raise keys.unsupported(f"{scaling} position scaling")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        frequencies = keys.real("rope.freq_base", default=10000.0) ** (-np.arange(0, head_dim, 2) / head_dim)
        if scaling == "linear":
            frequencies = frequencies / factor
    if (factors := file.tensors.get("rope_freqs.weight")) is not None:
        if factors.shape != frequencies.shape:
            raise keys.invalid(f"rope_freqs.weight has shape {list(factors.shape)}")
        divisors = dequantise(factors)
        if not (divisors > 0).all():
            raise keys.invalid("rope_freqs.weight is not positive")
        frequencies = frequencies / divisors
    if not np.isfinite(frequencies).all():
        raise keys.invalid("its rotary embedding has no finite frequencies")
    return tuple(frequencies.tolist())


def _check_tensors(file: GgufFile, config: LlamaConfig, keys: _ArchitectureMetadata) -> None:
    # Checked first: a forged layer count would otherwise make this list millions of names.
    if config.layers > len(file.tensors):
        raise keys.invalid(f"{config.layers} layers in {len(file.tensors)} tensors")
    expected = tensor_shapes(config)
    for name, shape in expected.items():
        tensor = file.tensors.get(name)
        if tensor is None:
            raise keys.invalid(f"tensor {name} is missing")
        if tensor.shape != shape:
            raise keys.invalid(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    known = expected.keys() | ({"rope_freqs.weight"} if config.rope_interleaved else set())
    if unknown := sorted(file.tensors.keys() - known):
        raise keys.unsupported(f"the tensor {unknown[0]}")
