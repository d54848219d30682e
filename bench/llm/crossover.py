"""Where two devices are better than one at a language model: both phases' measured curves, and what they predict.

Reading a prompt and writing an answer are different work; whether the device that is quicker at one should hand over to
the one that is quicker at the other depends on how long prompt and answer are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trisect.llm.phases.phase_prediction import rank_device_pairs
from trisect.llm.phases.phase_profile import PhaseProfile

_PROMPTS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_ANSWERS = (1, 4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class CurvePoint:
    """One measured length."""

    tokens: int
    """Of the prompt; of decode those that are there already."""
    tok_s: float
    time_s: float


@dataclass(frozen=True)
class Curve:
    """One phase on one device, measured."""

    device: str
    phase: Literal["prefill", "decode"]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class HandoverCurve:
    """What handing the KV cache over takes, measured."""

    source: str
    target: str
    tokens: tuple[int, ...]
    time_s: tuple[float, ...]
    size_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Crossing:
    """One length of prompt and of answer: predicted from the curves."""

    prompt_tokens: int
    new_tokens: int
    single: str
    single_s: float
    pair: str
    """``prefill -> decode``: the best of the pairs."""
    pair_s: float

    @property
    def gain(self) -> float:
        """How many times quicker the pair is."""
        return self.single_s / self.pair_s


@dataclass(frozen=True)
class Crossover:
    """The whole picture of one model on this machine."""

    curves: tuple[Curve, ...]
    handovers: tuple[HandoverCurve, ...]
    crossings: tuple[Crossing, ...]
    """Empty where there is one device."""


def crossover(profile: PhaseProfile, *, context_length: int, cache_bytes_per_token: int) -> Crossover:
    """Picture a model whose phases were measured.

    Parameters
    ----------
    profile : PhaseProfile
    context_length : int
        Lengths beyond it are left out.
    cache_bytes_per_token : int
        Of keys and values.
    """
    curves = []
    for device, found in profile.devices.items():
        read = tuple(CurvePoint(p.tokens, p.tokens / p.time_s, p.time_s) for p in found.prefill)
        written = tuple(CurvePoint(p.tokens, 1 / p.time_s, p.time_s) for p in found.decode)
        curves += [Curve(device, "prefill", read), Curve(device, "decode", written)]
    handovers = [
        HandoverCurve(
            h.source,
            h.target,
            tuple(p.tokens for p in h.points),
            tuple(p.time_s for p in h.points),
            tuple(p.tokens * cache_bytes_per_token for p in h.points),
        )
        for h in profile.handovers
    ]
    devices = list(profile.devices)
    crossings = [
        _crossing(profile, devices, prompt, answer)
        for prompt in _PROMPTS
        for answer in _ANSWERS
        if len(devices) > 1 and prompt + answer <= context_length
    ]
    return Crossover(tuple(curves), tuple(handovers), tuple(crossings))


def _crossing(profile: PhaseProfile, devices: Sequence[str], prompt: int, answer: int) -> Crossing:
    found = rank_device_pairs(profile, prefill=devices, decode=devices, prompt_tokens=prompt, new_tokens=answer)
    single = min((p for p in found if not p.is_split), key=lambda p: p.end_to_end_s)
    pair = min((p for p in found if p.is_split), key=lambda p: p.end_to_end_s)
    return Crossing(
        prompt, answer, single.decode, single.end_to_end_s, f"{pair.prefill} -> {pair.decode}", pair.end_to_end_s
    )
