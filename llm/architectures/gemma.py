"""Gemma, the first generation."""

from __future__ import annotations

import math
from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Embeddings times sqrt(hidden), GELU; converters have added the 1 to the weights of the norms."""
    config = read_decoder(keys)
    return replace(config, embedding_scale=config.hidden**0.5, activation="gelu-tanh")


def attention_scale(keys: ArchitectureMetadata, config: DecoderConfig, layers_of_27b: int) -> float:
    """Return the factor of Q and K: the 27B models, known by their depth, divide by the hidden size of each head."""
    if len(config.layers) != layers_of_27b or keys.real("attention.scale", default=0.0):
        return config.attention_scale
    return math.sqrt(config.heads / config.hidden)
