"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Q, K and V have biases."""
    return replace(read_decoder(keys), qkv_bias=True)
