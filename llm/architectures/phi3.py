"""Phi-3, Phi-3.5 and Phi-4, without vision and mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..gguf.rope_metadata import with_long_and_short_factors
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """Gate and up projection are one tensor; heads may rotate in part, and with two sets of factors."""
    return replace(with_long_and_short_factors(keys, read_decoder(keys)), fused_gate_up=True)
