"""OpenAI's gpt-oss."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder, with_experts
from ..graphs.decoder_config import DecoderConfig, ExpertsConfig, LayerConfig

_WINDOW_PERIOD = 2
_EXPERTS = ExpertsConfig(count=1, used=1, biases=True, gate_factor=1.702, up_offset=1.0, limit=7.0)
"""The constants are those of ``swiglu_oai`` in llama.cpp, and of the published model code."""


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Experts and attention with biases, attention sinks, and a sliding window in every other layer."""
    config = read_decoder(keys, has_experts=True)
    base = keys.real("rope.freq_base", default=10000.0)
    if keys.real("rope.freq_base_swa", default=base) != base:
        raise keys.unsupported("another rotary embedding in layers with a sliding window")
    window = config.layers[0].window
    if window is None:
        raise keys.invalid(f"{keys.architecture}.attention.sliding_window is missing")
    windowed = keys.pattern("attention.sliding_window_pattern", len(config.layers), _WINDOW_PERIOD)
    config = replace(
        config,
        layers=tuple(LayerConfig(window=window if flag else None) for flag in windowed),
        qkv_bias=True,
        output_bias=True,
        attention_sinks=True,
        tied_embeddings=False,
        ffn_norm_name="post_attention_norm",
    )
    return with_experts(keys, config, _EXPERTS)
