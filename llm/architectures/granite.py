"""Granite 3 and 4, their dense models."""

from __future__ import annotations

from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """As Llama, with factors of embeddings, residuals and attention, and a divisor of the logits."""
    config = read_decoder(keys, rope_interleaved=True, rope_factors="rope_freqs.weight")
    return replace(
        config,
        embedding_scale=keys.real("embedding_scale", default=0.0) or 1.0,
        residual_scale=keys.real("residual_scale", default=0.0) or 1.0,
        logit_scale=1 / keys.real("logit_scale", default=1.0),
    )
