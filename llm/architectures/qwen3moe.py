"""Qwen3's mixtures of experts, such as Qwen3-30B-A3B and Qwen3-Coder."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder, with_experts
from ..graphs.decoder_config import DecoderConfig, ExpertsConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """As Qwen3, with experts in every layer."""
    config = replace(read_decoder(keys, has_experts=True), head_norm="head")
    return with_experts(keys, config, ExpertsConfig(count=1, used=1))
