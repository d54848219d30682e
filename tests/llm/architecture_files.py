"""What tiny files of each architecture have beside, or instead of, the tensors and metadata of a Llama.

Sizes are small, but windows are shorter than the prompts of the tests, and caps and factors strong enough to matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.llm.gguf_factory import write_tiny_gguf

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN = 128, 4, 2, 32, 192
WINDOW = 16
EXPERTS, EXPERT_FFN = 8, 96
_WIDENS, _NARROWS = (EXPERTS, EXPERT_FFN, HIDDEN), (EXPERTS, HIDDEN, EXPERT_FFN)
_EXPERT_ENTRIES = {"expert_count": EXPERTS, "expert_used_count": 3, "expert_feed_forward_length": EXPERT_FFN}
_QUERIES, _PAIRS = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM

_DELTA_HEAD_DIM = 32
_DELTA_ENTRIES = {
    "ssm.time_step_rank": 4, "ssm.state_size": _DELTA_HEAD_DIM, "ssm.inner_size": 4 * _DELTA_HEAD_DIM,
    "ssm.conv_kernel": 4, "full_attention_interval": 2, "rope.dimension_count": HEAD_DIM // 2,
    "rope.dimension_sections": [3, 3, 2, 0],
}  # fmt: skip
_LAYERS = {"qwen35": 4, "qwen35-repeated": 3, "smollm3": 5, "gemma3": 8, "gemma3-scaled": 6, "olmo3": 5, "gemma2": 3}
FILE_NAMES = {
    "llama3": "llama",
    "phi4": "phi3",
    "olmo3": "olmo2",
    "qwen3-yarn": "qwen3",
    "gemma3-scaled": "gemma3",
    "qwen35-repeated": "qwen35",
}
"""Variants of an architecture -> its name in files."""
VARIANTS = (
    *("llama3", "qwen2", "qwen3", "qwen3-yarn", "smollm3", "gemma", "gemma2", "gemma3", "gemma3-scaled", "phi3"),
    *("phi4", "granite", "olmo2", "olmo3", "qwen3moe", "gpt-oss", "qwen35", "qwen35-repeated"),
)


def write_architecture(path: Path, variant: str, **changes: Any) -> Path:
    """Write a model of random weights; see `write_tiny_gguf` for what can be changed."""
    name = FILE_NAMES.get(variant, variant)
    layers = _LAYERS.get(variant, 2)
    metadata = {f"{name}.{key}": value for key, value in _metadata(variant).items()}
    settings: dict[str, Any] = {
        "quant": "F32",
        "layers": layers, "hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "ffn": FFN,
        "tied": name in ("gemma", "gemma2", "gemma3", "qwen2"),
    }  # fmt: skip
    # llama.cpp expects certain tokens in models named Phi-3.
    metadata |= {"general.name": "tiny"} | changes.pop("metadata", {})
    tensors = _tensors(variant, name, layers) | changes.pop("tensors", {})
    return write_tiny_gguf(path, name, **settings | {"metadata": metadata, "tensors": tensors} | changes)


def _metadata(variant: str) -> dict[str, Any]:
    window = {"attention.sliding_window": WINDOW}
    lengths = {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}
    entries: dict[str, dict[str, Any]] = {
        "qwen3-yarn": {
            "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        },
        "gemma": lengths,
        "gemma2": window | lengths | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0},
        "gemma3": window | lengths | {"rope.freq_base": 1e6},
        "gemma3-scaled": window | lengths | {
            "rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
        },
        "phi4": {
            "rope.dimension_count": HEAD_DIM // 2, "context_length": 1024, "rope.scaling.original_context_length": 256,
            "rope.scaling.attn_factor": 1.19,
        },
        "granite": {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.5, "attention.scale": 0.3},
        "qwen35": lengths | _DELTA_ENTRIES | {"ssm.group_count": 4},
        "qwen35-repeated": lengths | _DELTA_ENTRIES | {"ssm.group_count": 2, "nextn_predict_layers": 1},
        "qwen3moe": _EXPERT_ENTRIES,
        "gpt-oss": window | lengths | _EXPERT_ENTRIES | {
            "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 64,
        },
        "olmo3": window | {
            "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        },
    }  # fmt: skip
    return entries.get(variant, {})


def _tensors(variant: str, name: str, layers: int) -> dict[str, np.ndarray | None]:
    generator = np.random.default_rng(7)

    def near(middle: float, size: int) -> np.ndarray:
        return generator.normal(middle, 0.1, size)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.normal(0, 0.1, (rows, columns))

    tensors: dict[str, np.ndarray | None] = {}
    pairs = HEAD_DIM // 2
    if variant == "llama3":
        tensors["rope_freqs.weight"] = np.linspace(1, 8, pairs)
    if variant == "phi4":
        tensors["rope_factors_short.weight"] = np.linspace(1, 1.4, pairs // 2)
        tensors["rope_factors_long.weight"] = np.linspace(1, 30, pairs // 2)
    for index in range(layers):
        block: dict[str, np.ndarray | None] = {}
        if name in ("gemma2", "gemma3", "olmo2"):
            block |= {"post_attention_norm.weight": near(0.3, HIDDEN), "post_ffw_norm.weight": near(0.3, HIDDEN)}
        if name in ("gemma3", "qwen3moe"):
            block |= {f"attn_{part}_norm.weight": near(1, HEAD_DIM) for part in "qk"}
        if name in ("qwen3moe", "gpt-oss"):
            block |= {f"ffn_{part}.weight": None for part in ("gate", "up", "down")}
            block["ffn_gate_inp.weight"] = matrix(EXPERTS, HIDDEN)
            for part, shape in (("gate", _WIDENS), ("up", _WIDENS), ("down", _NARROWS)):
                block[f"ffn_{part}_exps.weight"] = generator.normal(0, 0.1, shape)
        if name == "olmo2":
            block |= {"attn_norm.weight": None, "ffn_norm.weight": None}
            block |= {"attn_q_norm.weight": near(1, _QUERIES), "attn_k_norm.weight": near(1, _PAIRS)}
        if name == "gpt-oss":
            block |= {"ffn_norm.weight": None, "post_attention_norm.weight": near(1, HIDDEN)}
            block["attn_sinks.weight"] = generator.normal(1, 1, HEADS)
            for part, size in (("q", _QUERIES), ("k", _PAIRS), ("v", _PAIRS), ("output", HIDDEN)):
                block[f"attn_{part}.bias"] = near(0, size)
            block["ffn_gate_inp.bias"] = near(0, EXPERTS)
            # Large enough for the limit of 7.
            block |= {f"ffn_{part}_exps.bias": generator.normal(0, 5, (EXPERTS, EXPERT_FFN)) for part in ("gate", "up")}
            block["ffn_down_exps.bias"] = generator.normal(0, 0.1, (EXPERTS, HIDDEN))
        if name == "qwen35":
            block |= {"ffn_norm.weight": None, "post_attention_norm.weight": near(1, HIDDEN)}
            if variant == "qwen35-repeated" and index == layers - 1:  # predicts a further token
                block["nextn.eh_proj.weight"] = matrix(HIDDEN, 2 * HIDDEN)
                block |= {f"nextn.{part}.weight": near(1, HIDDEN) for part in ("enorm", "hnorm", "shared_head_norm")}
            if index % 2 == 1 or "nextn.enorm.weight" in block:
                block["attn_q.weight"] = matrix(2 * _QUERIES, HIDDEN)
                block |= {f"attn_{part}_norm.weight": near(1, HEAD_DIM) for part in "qk"}
            else:
                value_heads, size = 4, _DELTA_HEAD_DIM
                channels = (2 * (2 if variant == "qwen35-repeated" else 4) + value_heads) * size
                block |= {f"attn_{part}.weight": None for part in ("q", "k", "v", "output")}
                block |= {
                    "attn_qkv.weight": matrix(channels, HIDDEN), "attn_gate.weight": matrix(value_heads * size, HIDDEN),
                    "ssm_alpha.weight": matrix(value_heads, HIDDEN), "ssm_beta.weight": matrix(value_heads, HIDDEN),
                    "ssm_conv1d.weight": generator.normal(0, 0.5, (channels, 4)), "ssm_dt.bias": near(0, value_heads),
                    "ssm_a": -generator.uniform(0.1, 2, value_heads), "ssm_norm.weight": near(1, size),
                    "ssm_out.weight": matrix(HIDDEN, value_heads * size),
                }  # fmt: skip
        if name == "phi3":
            block |= {f"attn_{part}.weight": None for part in "qkv"} | {"ffn_gate.weight": None}
            block["attn_qkv.weight"] = matrix(_QUERIES + 2 * _PAIRS, HIDDEN)
            block["ffn_up.weight"] = matrix(2 * FFN, HIDDEN)
        tensors |= {f"blk.{index}.{key}": array for key, array in block.items()}
    return tensors
