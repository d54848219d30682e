"""OLMo 2 and OLMo 3."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..gguf.rope_metadata import plain_rope
from ..graphs.decoder_config import DecoderConfig, LayerConfig

_WINDOW_PERIOD = 4


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Norms only after each part, and over the whole projections of Q and K; OLMo 3 has layers with a window.

    These layers have the rotary embedding without its scaling.
    """
    config = replace(read_decoder(keys), pre_norms=False, post_norms=True, head_norm="projection")
    window = config.layers[0].window
    if window is None:
        return config
    windowed = keys.pattern("attention.sliding_window_pattern", len(config.layers), _WINDOW_PERIOD)
    local = plain_rope(keys.real("rope.freq_base", default=10000.0), config.rotary_dim)
    layers = tuple(LayerConfig(rope=1, window=window) if flag else LayerConfig() for flag in windowed)
    return replace(config, layers=layers, ropes=(*config.ropes, local))
