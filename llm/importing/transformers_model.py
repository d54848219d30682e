"""Reads a folder of transformers, ``config.json`` and safetensors, in the terms of a GGUF file.

So every architecture has one definition (`llm/architectures/`), whichever of the two formats its weights come in. What
converters to GGUF change, this does too: the weights of Gemma's norms get their 1 added, and Llama 3's scaling of the
rotary embedding becomes factors of its frequencies. Rows of Q and K stay as they are, in order for rotation by halves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel
from trisect.runtime.progress import Progress

from ..architectures import read_config, unsupported_architecture
from ..bundle import Bundle
from ..gguf.gguf_reader import GgufFile, GgufTensor, Value
from ..gguf.quantised_blocks import dequantise
from .folder_config import CONFIG_FILE, read_folder_tokenizer, read_json_object
from .gguf_import import DecoderForms, import_decoder
from .safetensors_file import map_tensors
from .weight_conversion import Preference

_ARCHITECTURES = {
    **{kind: kind for kind in ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "smollm3", "granite")},
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
}
"""``model_type`` -> GGUF's name of the architecture."""
MODEL_TYPES = tuple(_ARCHITECTURES)
"""Values of ``model_type`` that are supported."""
_INTEGERS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
}
_REALS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
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
_WHOLE = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_POST_NORMS = ("gemma2", "gemma3", "olmo2")
"""Architectures whose ``post_attention_layernorm`` does follow the attention; others have it before the next part."""
_WINDOW_ON_REQUEST = ("qwen2", "qwen3", "smollm3")
"""Architectures that have a sliding window only where ``use_sliding_window`` is true, which is refused."""
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_NO_ROPE_PERIOD = 4
"""Every fourth layer of SmolLM3 has no rotary embedding, as in GGUF files."""
_LAYER = re.compile(r"layers\.(\d{1,4})\.([\w.]+)\.(weight|bias)")


def import_transformers(
    source: Path, folder: Path, *, weights: str, prefer: Preference = "speed", progress: Progress
) -> Bundle:
    """Write a bundle's files into an empty folder, as `import_gguf` does.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If a file is missing, malformed, or of a kind that is not supported.
    OSError
        If a file cannot be written.
    """
    file = read_transformers_model(source)
    config = replace(read_config(file), rope_interleaved=False)
    forms = DecoderForms(weights=weights, prefer=prefer)
    bundle = import_decoder(file, config, read_folder_tokenizer(source), folder, forms=forms, progress=progress)
    return replace(bundle, source=source.name)


def read_transformers_model(folder: Path) -> GgufFile:
    """Return the folder's model as a GGUF file would have it, its vocabulary without texts.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If a file is malformed, or of an architecture that is not supported.
    """
    document = read_json_object(folder / CONFIG_FILE)
    kind = document.get("model_type")
    name = _ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if name is None or "vision_config" in document:
        raise UnsupportedModel(f"{folder / CONFIG_FILE}: {unsupported_architecture(kind)}")
    if document.get("quantization_config"):
        raise UnsupportedModel(f"{folder} holds weights that are already quantised", remedy="use the original model")
    _refuse_variations(folder, name, document)
    rope = _rope(document)
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
    metadata |= _attention_scale(name, document) | _scaling(folder, name, rope) | _partial(name, document, head_dim)
    if isinstance(kinds := document.get("layer_types"), list) and name in _POST_NORMS:
        flags = np.array([kind == "sliding_attention" for kind in kinds[:4096]], np.int32)
        metadata[f"{name}.attention.sliding_window_pattern"] = flags
    tensors = _renamed(name, map_tensors(folder), tied=document.get("tie_word_embeddings", name.startswith("gemma")))
    if rope.get("rope_type") == "llama3":
        factors = _llama3_factors(folder, rope, entries.get("rope_theta") or 10000.0, head_dim)
        tensors["rope_freqs.weight"] = _tensor("rope_freqs.weight", factors)
    return GgufFile(folder / CONFIG_FILE, metadata, tensors)


def _refuse_variations(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """Refuse settings that architectures in GGUF files do not have."""
    activation = document.get("hidden_act", "silu")
    expected: dict[str, tuple[object, ...]] = {
        "use_sliding_window": (None, False),
        "no_rope_layer_interval": (None, 4),
        "sliding_window_pattern": (None, 6),
        "_sliding_window_pattern": (None, 6),
    }
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
                f"{folder / CONFIG_FILE} has {key} = {str(document[key])[:40]}, expected {values[1]}"
            )


def _rope(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scaling of the rotary embedding; transformers 5 has it, and the base, under another name."""
    for key in ("rope_parameters", "rope_scaling"):
        section = document.get(key)
        if isinstance(section, dict):
            section = section.get("full_attention", section)
            return {"rope_type": section.get("type", "default"), **section} if isinstance(section, dict) else {}
    return {}


def _scaling(folder: Path, name: str, rope: Mapping[str, Any]) -> dict[str, Value]:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
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


def _renamed(name: str, tensors: Mapping[str, GgufTensor], *, tied: object) -> dict[str, GgufTensor]:
    """Return tensors under GGUF's names; those without one keep theirs, and are refused later."""
    parts = {**_PARTS, "post_attention_layernorm": "post_attention_norm" if name in _POST_NORMS else "ffn_norm"}
    renamed: dict[str, GgufTensor] = {}
    for original, tensor in tensors.items():
        plain = original.removeprefix("model.")
        if plain.endswith(".rotary_emb.inv_freq"):  # old files of Llama; computed from the configuration, as always
            continue
        if original == "lm_head.weight":
            if tied is True:
                continue
            target = "output.weight"
        elif match := _LAYER.fullmatch(plain):
            target = f"blk.{match[1]}.{parts.get(match[2], match[2])}.{match[3]}"
        else:
            target = _WHOLE.get(plain, plain)
        if target in renamed:
            raise InvalidModel(f"two tensors of the model stand for {target}", remedy="remove one of the files")
        if name.startswith("gemma") and target.endswith("norm.weight"):
            renamed[target] = _tensor(target, dequantise(tensor) + 1)
        else:
            renamed[target] = replace(tensor, name=target)
    return renamed


def _tensor(name: str, values: np.ndarray) -> GgufTensor:
    array = np.ascontiguousarray(values, np.float32)
    return GgufTensor(name, array.shape, "F32", array.view(np.uint8).reshape(-1, array.shape[-1] * 4))


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
