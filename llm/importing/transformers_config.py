"""Reads ``config.json`` of a folder of transformers into the metadata that a GGUF file of the same model has.

So a model is accepted or refused before its weights are downloaded. What converters to GGUF change, this does too:
Llama 3's scaling of the rotary embedding becomes factors of its frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel

from ..architectures import unsupported_architecture
from ..gguf.gguf_reader import Value
from .folder_config import CONFIG_FILE, read_json_object

_ARCHITECTURES = {
    **{kind: kind for kind in ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "smollm3", "granite")},
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "qwen3_moe": "qwen3moe",
}
"""``model_type`` -> GGUF's name of the architecture."""
MODEL_TYPES = tuple(_ARCHITECTURES)
"""Values of ``model_type`` that are supported."""
_LOCAL_BASE = "rope_local_base_freq"
_INTEGERS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_REALS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    _LOCAL_BASE: "rope.freq_base_swa",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "attention_multiplier": "attention.scale",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
"""Entries of ``config.json`` -> keys of a GGUF file, without the architecture in front."""
_REAL_MAX = 1e12
"""More than any factor, base or length."""
_WHOLE_MAX = 1 << 53
"""Whole numbers up to this one are exact as real ones."""
_WINDOW_ON_REQUEST = ("qwen2", "qwen3", "qwen3moe", "smollm3")
"""Architectures that have a sliding window only where ``use_sliding_window`` is true, which is refused."""
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
POST_NORMS = ("gemma2", "gemma3", "olmo2")
"""Architectures whose ``post_attention_layernorm`` does follow the attention; others have it before the next part."""
_LONG_ROPE = ("longrope", "su")
"""LongRoPE's name, and the one that the first models had for it."""
_NO_ROPE_PERIOD = 4
"""Every fourth layer of SmolLM3 has no rotary embedding, as in GGUF files."""


@dataclass(frozen=True, eq=False)
class TransformersConfig:
    """A configuration in the terms of a GGUF file."""

    architecture: str
    metadata: Mapping[str, Value]
    """The vocabulary is without texts."""
    factors: Mapping[str, np.ndarray]
    """Tensors of a GGUF file that divide the frequencies of the rotary embedding."""
    tied_embeddings: bool


def read_transformers_config(folder: Path) -> TransformersConfig:
    """Read a folder's ``config.json``.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If it is malformed, or of an architecture or a variation that is not supported.
    """
    document = read_json_object(folder / CONFIG_FILE)
    kind = document.get("model_type")
    name = _ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if name is None or "vision_config" in document:
        raise UnsupportedModel(f"{folder / CONFIG_FILE}: {unsupported_architecture(kind)}")
    if document.get("quantization_config"):
        raise UnsupportedModel(f"{folder} holds weights that are already quantised", remedy="use the original model")
    _refuse_variations(folder, name, document)
    rope = _rope(folder, name, document)
    metadata: dict[str, Value] = {
        "general.architecture": name,
        "general.name": folder.resolve().name,
        "tokenizer.ggml.tokens": [""] * _integer(folder, document, "vocab_size", 1 << 24),
    }
    heads = _integer(folder, document, "num_attention_heads", 1 << 14)
    head_dim = _integer(folder, document, "hidden_size", 1 << 20) // heads
    if document.get("head_dim") is not None:
        head_dim = _integer(folder, document, "head_dim", 1 << 14)
    entries = {**document, **rope}
    for table in (_INTEGERS, _REALS):
        for key, target in table.items():
            if entries.get(key) is not None:
                value = entries[key]
                is_whole = isinstance(value, int) and table is _REALS and not isinstance(value, bool)
                metadata[f"{name}.{target}"] = float(max(-_WHOLE_MAX, min(value, _WHOLE_MAX))) if is_whole else value
    if name in _WINDOW_ON_REQUEST:
        metadata.pop(f"{name}.attention.sliding_window", None)
    metadata[f"{name}.attention.key_length"] = metadata[f"{name}.attention.value_length"] = head_dim
    metadata |= _attention_scale(name, document) | _scaling(folder, name, entries) | _partial(name, document, head_dim)
    if isinstance(kinds := document.get("layer_types"), list) and name in POST_NORMS:
        flags = np.array([kind == "sliding_attention" for kind in kinds[:4096]], np.int32)
        metadata[f"{name}.attention.sliding_window_pattern"] = flags
    return TransformersConfig(
        architecture=name,
        metadata=metadata,
        factors=_rope_factors(folder, name, entries, head_dim),
        tied_embeddings=document.get("tie_word_embeddings", name.startswith("gemma")) is True,
    )


def _rope_factors(folder: Path, name: str, entries: Mapping[str, Any], head_dim: int) -> dict[str, np.ndarray]:
    kind = entries.get("rope_type")
    if kind == "llama3":
        base = entries.get("rope_theta") or 10000.0
        return {"rope_freqs.weight": _llama3_factors(folder, entries, base, head_dim)}
    if kind not in _LONG_ROPE:
        return {}
    factors = {}
    for key in ("short", "long"):
        values = entries.get(f"{key}_factor")
        if not isinstance(values, list) or len(values) > head_dim or None in (numbers := [*map(_positive, values)]):
            raise InvalidModel(f"{folder / CONFIG_FILE} has no valid {key}_factor", remedy="download it again")
        factors[f"rope_factors_{key}.weight"] = np.array(numbers, np.float32)
    return factors


def _refuse_variations(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """Refuse settings that architectures in GGUF files do not have."""
    activation = document.get("hidden_act", "silu")
    expected: dict[str, tuple[object, ...]] = {
        "use_sliding_window": (None, False),
        "no_rope_layer_interval": (None, 4),
        "sliding_window_pattern": (None, 6),
        "_sliding_window_pattern": (None, 6),
    }
    if name == "qwen3moe":  # experts in every layer, whose weights add up to 1
        expected |= {"norm_topk_prob": (True, True), "decoder_sparse_step": (None, 1), "mlp_only_layers": (None, [])}
    if not name.startswith("gemma") and activation != "silu":
        raise UnsupportedModel(f"{folder / CONFIG_FILE} has the activation {str(activation)[:40]!r}, expected 'silu'")
    without = document.get("no_rope_layers")
    if isinstance(without, list) and any(
        bool(flag) == (at % _NO_ROPE_PERIOD == 0) for at, flag in enumerate(without, 1)
    ):
        raise UnsupportedModel(
            f"{folder / CONFIG_FILE} has other no_rope_layers than every {_NO_ROPE_PERIOD}th", remedy="use a GGUF file"
        )
    if name == "gemma2" and (off := [key for key in _SOFT_CAPS if document.get(key, 1) is None]):
        raise UnsupportedModel(f"{folder / CONFIG_FILE} has no {off[0]}, which Gemma 2 has")
    for key, values in expected.items():
        if document.get(key) not in values:
            raise UnsupportedModel(
                f"{folder / CONFIG_FILE} has {key} = {str(document.get(key))[:40]}, expected {values[1]}"
            )


def _rope(folder: Path, name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return base and scaling of the rotary embedding; transformers 5 has them by kind of layer."""
    section = next((s for key in ("rope_parameters", "rope_scaling") if isinstance(s := document.get(key), dict)), {})
    full = section.get("full_attention", section)
    if not isinstance(full, dict):
        return {}
    rope = {"rope_type": full.get("type", "default"), **full}
    if isinstance(local := section.get("sliding_attention"), dict):
        base, own_base = local.get("rope_theta"), full.get("rope_theta")
        if local.get("rope_type", "default") != "default" or (name != "gemma3" and base != own_base):
            raise UnsupportedModel(
                f"{folder / CONFIG_FILE} has another rotary embedding in its sliding_attention layers"
            )
        rope[_LOCAL_BASE] = base
    return rope


def _scaling(folder: Path, name: str, rope: Mapping[str, Any]) -> dict[str, Value]:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
    if kind in _LONG_ROPE and name == "phi3":
        return {f"{name}.rope.scaling.type": "longrope", f"{name}.rope.scaling.attn_factor": _long_rope_magnitude(rope)}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(
            f"{folder / CONFIG_FILE} has {str(kind)[:40]!r} position scaling", remedy="use a GGUF file"
        )
    metadata: dict[str, Value] = {f"{name}.rope.scaling.type": kind}
    factor = _positive(rope.get("factor"))
    if factor is None:
        raise InvalidModel(f"{folder / CONFIG_FILE} has no factor of its position scaling", remedy="download it again")
    metadata[f"{name}.rope.scaling.factor"] = factor
    if kind == "yarn":
        other = [key for key in ("mscale", "mscale_all_dim") if rope.get(key) is not None]
        if rope.get("truncate") is False:
            other.append("truncate")
        magnitude = _positive(rope.get("attention_factor"))
        if magnitude is None and rope.get("attention_factor") is not None:
            other.append("attention_factor")
        if other:
            value = str(rope[other[0]])[:40]
            raise UnsupportedModel(
                f"{folder / CONFIG_FILE} has YaRN with {other[0]} = {value}", remedy="use a GGUF file"
            )
        if magnitude is not None:  # GGUF files have it relative to the usual one
            metadata[f"{name}.rope.scaling.attn_factor"] = magnitude / (0.1 * math.log(max(1.0, factor)) + 1)
    return metadata


def _long_rope_magnitude(entries: Mapping[str, Any]) -> float:
    """Return the factor of cosines and sines, as ``_compute_longrope_parameters`` in ``modeling_rope_utils.py``."""
    stated = _positive(entries.get("attention_factor"))
    longest, original = (_positive(entries.get(f"{kind}max_position_embeddings")) for kind in ("", "original_"))
    if stated is not None or longest is None or original is None or original <= 1:
        return stated or 1.0
    return math.sqrt(1 + math.log(max(1.0, longest / original)) / math.log(original))


def _attention_scale(name: str, document: Mapping[str, Any]) -> dict[str, Value]:
    scalar = _positive(document.get("query_pre_attn_scalar"))
    return {} if scalar is None else {f"{name}.attention.scale": scalar**-0.5}


def _partial(name: str, document: Mapping[str, Any], head_dim: Any) -> dict[str, Value]:
    share = document.get("partial_rotary_factor")
    if isinstance(share, (int, float)) and 0 < share <= 1 and isinstance(head_dim, int):
        return {f"{name}.rope.dimension_count": int(share * head_dim)}
    return {}


def _llama3_factors(folder: Path, rope: Mapping[str, Any], base: object, head_dim: int) -> np.ndarray:
    """Return the divisors of the frequencies: 1 for fast ones, `factor` for slow ones, blended in between.

    As defined by ``_compute_llama3_parameters`` in transformers' ``modeling_rope_utils.py``.
    """
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    numbers = [_positive(rope.get(key)) for key in keys]
    if None in numbers:
        raise InvalidModel(f"{folder / CONFIG_FILE} has an incomplete scaling of Llama 3", remedy="download it again")
    factor, low, high, original = (n for n in numbers if n is not None)
    base = _positive(base)
    if low >= high or base is None or base <= 1:
        raise InvalidModel(f"{folder / CONFIG_FILE} has an inconsistent scaling of Llama 3", remedy="download it again")
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    divisors: np.ndarray = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _positive(value: object) -> float | None:
    """Return a number above 0 of a usual size as such; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < _REAL_MAX:
        return None
    return float(value)


def _integer(folder: Path, document: Mapping[str, Any], key: str, maximum: int) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise InvalidModel(
            f"{folder / CONFIG_FILE} has {key} = {str(value)[:40]}, expected 1 to {maximum}", remedy="download it again"
        )
    return value
