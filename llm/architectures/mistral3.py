"""Mistral Small 3 and Ministral, without vision."""

from __future__ import annotations

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """As Llama; a temperature that depends on the position is refused."""
    return read_decoder(keys, rope_interleaved=True, rope_factors="rope_freqs.weight")
