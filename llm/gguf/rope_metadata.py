"""Reads a rotary position embedding from a GGUF file: its base, and how it is scaled to a longer context."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..graphs.decoder_config import DecoderConfig, Rope
from .architecture_metadata import ArchitectureMetadata

_DEFAULT_BASE = 10000.0
_BETA_FAST, _BETA_SLOW = 32.0, 1.0
"""YaRN's rotations within the original context between which it blends: https://arxiv.org/abs/2309.00071, 3.2."""
_BETA_MAX = 1e9
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def rope_dimensions(keys: ArchitectureMetadata, head_dim: int) -> int:
    """Return the number of rotated dimensions of a head."""
    rotated = keys.integer("rope.dimension_count", 1 << 14, default=head_dim)
    if rotated > head_dim or rotated % 2:
        raise keys.invalid(f"rotary embeddings of {rotated} of {head_dim} dimensions")
    return rotated


def read_rope(keys: ArchitectureMetadata, rotated: int, *, factors: str | None = None) -> Rope:
    """Read the rotary embedding of layers with full attention.

    Parameters
    ----------
    rotated : int
        Number of rotated dimensions of a head.
    factors : str, optional
        Name of a tensor that may divide the frequencies, as in Llama 3.

    Raises
    ------
    UnsupportedModel
        For an unknown scaling.
    InvalidModel
        If it has no finite frequencies.
    """
    base = keys.real("rope.freq_base", default=_DEFAULT_BASE)
    scaling = keys.text("rope.scaling.type", "linear")
    factor = keys.real("rope.scaling.factor", default=0.0) or keys.real("rope.scale_linear", default=0.0) or 1.0
    rope = plain_rope(base, rotated)
    if scaling == "yarn":
        rope = _yarn(keys, rope, base, factor)
    elif scaling == "linear":
        rope = replace(rope, frequencies=tuple(f / factor for f in rope.frequencies))
    elif scaling not in ("none", "longrope"):
        raise keys.unsupported(f"{scaling} position scaling")
    divisors = None if factors is None else keys.tensor(factors, (rotated // 2,))
    if divisors is not None:
        rope = replace(rope, frequencies=_divided(rope, divisors))
    if not np.isfinite([*rope.frequencies, rope.magnitude]).all():
        raise keys.invalid("its rotary embedding has no finite frequencies")
    return rope


def plain_rope(base: float, rotated: int) -> Rope:
    """Return the rotary embedding without scaling."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return Rope(tuple((base ** (-np.arange(0, rotated, 2) / rotated)).tolist()))


def with_long_and_short_factors(keys: ArchitectureMetadata, config: DecoderConfig) -> DecoderConfig:
    """Apply LongRoPE's two sets of factors; unchanged if the file has none.

    The factors for long contexts change every position, so that one sequence has one kind only: as in llama.cpp
    (``llama_model::get_rope_factors``), that for the length of the context that it may reach.
    """
    shape = (config.rotary_dim // 2,)
    long = keys.tensor(_LONG, shape)
    short = keys.tensor(_SHORT, shape)
    original = keys.integer("rope.scaling.original_context_length", 1 << 31, default=config.context_length)
    if short is None:
        if long is not None:
            raise keys.invalid(f"it has {_LONG} but no {_SHORT}")
        return config
    magnitude = keys.real("rope.scaling.attn_factor", default=1.0)

    def ropes(factors: np.ndarray) -> tuple[Rope, ...]:
        return tuple(Rope(_divided(rope, factors), magnitude) for rope in config.ropes)

    if original >= config.context_length:
        return replace(config, ropes=ropes(short))
    limited = replace(config, ropes=ropes(short), context_length=original)
    if long is None:
        return limited
    return replace(limited, long_ropes=ropes(long), long_context_length=config.context_length)


def _divided(rope: Rope, divisors: np.ndarray) -> tuple[float, ...]:
    with np.errstate(over="ignore", divide="ignore"):
        return tuple((np.asarray(rope.frequencies) / divisors.astype(np.float64)).tolist())


def _yarn(keys: ArchitectureMetadata, rope: Rope, base: float, factor: float) -> Rope:
    """Interpolate slow frequencies, leave fast ones, and blend between them (YaRN: https://arxiv.org/abs/2309.00071).

    Rounding of the bounds, and the magnitude ``0.1 ln(factor) + 1``, are those of llama.cpp's ``ggml_rope_yarn_*``.
    """
    keys.refuse_nonzero("rope.scaling.yarn_log_multiplier", "YaRN with another magnitude")
    context = keys.integer("context_length", 1 << 31)
    original = keys.integer("rope.scaling.original_context_length", 1 << 31, default=context)
    rotated = 2 * len(rope.frequencies)
    if base == 1 or factor < 1:
        raise keys.invalid(f"YaRN with base {base:g} and factor {factor:g}")

    def dimension(rotations: float) -> float:
        return rotated * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    fast = keys.real("rope.scaling.yarn_beta_fast", default=_BETA_FAST)
    slow = keys.real("rope.scaling.yarn_beta_slow", default=_BETA_SLOW)
    if not all(1 / _BETA_MAX <= beta <= _BETA_MAX for beta in (fast, slow)):
        raise keys.invalid(f"YaRN blends between {fast:g} and {slow:g} rotations")
    low, high = max(0, math.floor(dimension(fast))), min(rotated - 1, math.ceil(dimension(slow)))
    ramp = np.clip((np.arange(rotated // 2) - low) / max(0.001, high - low), 0, 1)
    frequencies = np.asarray(rope.frequencies)
    blended = frequencies * (1 - ramp) + frequencies / factor * ramp
    magnitude = (0.1 * math.log(factor) + 1) * keys.real("rope.scaling.attn_factor", default=1.0)
    return Rope(tuple(blended.tolist()), magnitude)
