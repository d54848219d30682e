"""Qwen3.5 and 3.6, their dense models, without vision: gated delta layers, and attention in every fourth layer."""

from __future__ import annotations

import re
from dataclasses import replace

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import read_decoder
from ..graphs.decoder_config import DecoderConfig, DeltaConfig

_ATTENTION_PERIOD = 4
_HEADS_MAX, _KERNEL_MAX, _HEAD_DIM_MAX = 1 << 12, 1 << 6, 1 << 10
"""Far more than any model has: states are allocated by them."""


def read(keys: ArchitectureMetadata) -> DecoderConfig:
    """As Qwen3, with a gate after attention; layers that only predict further tokens (MTP) are left out.

    The rotary embedding has sections for images, which text positions all rotate alike.
    """
    config = replace(
        read_decoder(keys), head_norm="head", attention_gate=True, ffn_norm_name="post_attention_norm", fused_qkv=False
    )
    delta = DeltaConfig(
        key_heads=keys.integer("ssm.group_count", _HEADS_MAX),
        value_heads=keys.integer("ssm.time_step_rank", _HEADS_MAX),
        head_dim=keys.integer("ssm.state_size", _HEAD_DIM_MAX),
        kernel=keys.integer("ssm.conv_kernel", _KERNEL_MAX),
    )
    if delta.value_heads % delta.key_heads or delta.kernel < 2:
        raise keys.invalid(f"{delta.value_heads} value heads, {delta.key_heads} key heads, a kernel of {delta.kernel}")
    if keys.integer("ssm.inner_size", 1 << 24) != delta.value_size:
        raise keys.invalid(f"{keys.architecture}.ssm.inner_size is not {delta.value_size}")
    _check_sections(keys)
    period = keys.integer("full_attention_interval", 1 << 12, default=_ATTENTION_PERIOD)
    count = len(config.layers)
    extra = keys.integer("nextn_predict_layers", count - 1, default=0)
    _leave_out(keys, count - extra)
    recurrent = keys.pattern("attention.recurrent_layers", count, period)[: count - extra]
    if all(recurrent):
        raise keys.invalid("it has no layer with attention")
    layers = tuple(replace(layer, recurrent=flag) for layer, flag in zip(config.layers, recurrent, strict=False))
    return replace(config, layers=layers, delta=delta)


def _check_sections(keys: ArchitectureMetadata) -> None:
    """Refuse rotary sections of height and width that are so short that some dimensions would not rotate with text."""
    sections = keys.integers("rope.dimension_sections", 4, 1 << 12)
    total = sum(sections)
    if not total or any(pair >= 3 * sections[pair % 3] for pair in range(total)):
        raise keys.unsupported(f"rotary sections of {', '.join(map(str, sections))}")


def _leave_out(keys: ArchitectureMetadata, count: int) -> None:
    """Ignore the tensors of layers from `count` on."""
    layer = re.compile(r"blk\.(\d{1,4})\.")
    numbers = {name: match for name in keys.file.tensors if (match := layer.match(name))}
    keys.read_tensors |= {name for name, match in numbers.items() if int(match[1]) >= count}
