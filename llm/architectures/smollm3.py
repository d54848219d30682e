"""SmolLM3."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig

_NO_ROPE_PERIOD = 4
"""Every fourth layer has no rotary embedding; the file does not say so."""


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """As Llama, but for layers without position embedding."""
    config = read_decoder(keys, rope_interleaved=True)
    layers = [
        replace(layer, rope=None) if (index + 1) % _NO_ROPE_PERIOD == 0 else layer
        for index, layer in enumerate(config.layers)
    ]
    return replace(config, layers=tuple(layers))
