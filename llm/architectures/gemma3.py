"""Gemma 3, without vision."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.rope_metadata import plain_rope
from ..graphs.decoder_config import DecoderConfig, LayerConfig
from . import gemma

_LAYERS_OF_27B = 62
_LOCAL_ROPE_BASE = 10000.0
_WINDOW_PERIOD = 6
"""Every sixth layer has full attention; as the local base, files state this rarely."""


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Norms after each part and of the heads of Q and K; layers with a window have a rotary embedding of their own."""
    config = gemma.read(keys)
    window = config.layers[0].window
    windowed = keys.pattern("attention.sliding_window_pattern", len(config.layers), _WINDOW_PERIOD)
    local = plain_rope(keys.real("rope.freq_base_swa", default=_LOCAL_ROPE_BASE), config.rotary_dim)
    return replace(
        config,
        layers=tuple(
            LayerConfig(rope=1, window=window) if flag and window is not None else LayerConfig() for flag in windowed
        ),
        ropes=(*config.ropes, local),
        head_norm="head",
        post_norms=True,
        attention_scale=gemma.attention_scale(keys, config, _LAYERS_OF_27B),
        logit_softcap=keys.real("final_logit_softcapping", default=0.0) or None,
    )
