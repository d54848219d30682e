"""Llama 2 and 3, SmolLM, TinyLlama, Mistral 7B, and other models of the same layers."""

from __future__ import annotations

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Rotary embeddings of neighbouring rows; Llama 3.1 and later divide their frequencies by factors in the file."""
    return read_decoder(keys, rope_interleaved=True, rope_factors="rope_freqs.weight")
