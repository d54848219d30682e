"""Gemma 2."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..graphs.decoder_config import DecoderConfig, LayerConfig
from . import gemma

_LAYERS_OF_27B = 46
_WINDOW = 4096
"""If the file does not state one."""
_WINDOW_PERIOD = 2
_ATTENTION_SOFTCAP, _LOGIT_SOFTCAP = 50.0, 30.0


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Norms after each part too, a sliding window in every other layer, and two soft caps."""
    config = gemma.read(keys)
    window = keys.integer("attention.sliding_window", 1 << 31, default=_WINDOW)
    windowed = keys.pattern("attention.sliding_window_pattern", len(config.layers), _WINDOW_PERIOD)
    return replace(
        config,
        layers=tuple(LayerConfig(window=window if flag else None) for flag in windowed),
        post_norms=True,
        attention_scale=gemma.attention_scale(keys, config, _LAYERS_OF_27B),
        attention_softcap=keys.real("attn_logit_softcapping", default=_ATTENTION_SOFTCAP),
        logit_softcap=keys.real("final_logit_softcapping", default=_LOGIT_SOFTCAP),
    )
