"""Qwen3, its dense models."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Every head of Q and K is normalised."""
    return replace(read_decoder(keys), head_norm="head")
