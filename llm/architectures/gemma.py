"""Gemma, the first generation."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Embeddings times sqrt(hidden), GELU; converters have added the 1 to the weights of the norms."""
    config = read_decoder(keys)
    return replace(config, embedding_scale=config.hidden**0.5, activation="gelu-tanh")
