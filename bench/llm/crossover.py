"""The crossover between one device and a pair: measured curves of both phases, and where a pair is faster.

Prefill is compute-bound and decode memory-bound. Whether the device that is faster at prefill should hand over to the
one that is faster at decode depends on the lengths of prompt and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trisect.llm.phases.phase_prediction import rank_device_pairs
from trisect.llm.phases.phase_profile import PhaseProfile

_PROMPT_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_NEW_TOKENS = (1, 4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class SpeedPoint:
    """Measured speed at one length."""

    tokens: int
    """Of the prompt; for decode, of the context."""
    tok_s: float
    time_s: float


@dataclass(frozen=True)
class PhaseCurve:
    """Measured speed of one phase on one device."""

    device: str
    phase: Literal["prefill", "decode"]
    points: tuple[SpeedPoint, ...]


@dataclass(frozen=True)
class HandoverCurve:
    """Measured time of handing the KV cache over."""

    source: str
    target: str
    tokens: tuple[int, ...]
    time_s: tuple[float, ...]
    size_bytes: tuple[int, ...]


@dataclass(frozen=True)
class RequestComparison:
    """The best single device and the best pair for one request, predicted from the curves."""

    prompt_tokens: int
    new_tokens: int
    single: str
    single_s: float
    pair: str
    """``prefill -> decode``."""
    pair_s: float

    @property
    def gain(self) -> float:
        """Speed-up by the pair."""
        return self.single_s / self.pair_s


@dataclass(frozen=True)
class Crossover:
    """Curves of one model on this machine, and requests of many sizes."""

    curves: tuple[PhaseCurve, ...]
    handovers: tuple[HandoverCurve, ...]
    crossings: tuple[RequestComparison, ...]
    """Empty if there is one device."""


def crossover(profile: PhaseProfile, *, context_length: int, cache_bytes: Callable[[int], int]) -> Crossover:
    """Return the crossover of a model whose phases were measured.

    Parameters
    ----------
    context_length : int
        Longer requests are left out.
    cache_bytes : callable
        Returns the size of the keys and values of a number of tokens.
    """
    curves = []
    for device, phases in profile.devices.items():
        prefill = tuple(SpeedPoint(p.tokens, p.tokens / p.time_s, p.time_s) for p in phases.prefill)
        decode = tuple(SpeedPoint(p.tokens, 1 / p.time_s, p.time_s) for p in phases.decode)
        curves += [PhaseCurve(device, "prefill", prefill), PhaseCurve(device, "decode", decode)]
    handovers = [
        HandoverCurve(
            h.source,
            h.target,
            tuple(p.tokens for p in h.points),
            tuple(p.time_s for p in h.points),
            tuple(cache_bytes(p.tokens) for p in h.points),
        )
        for h in profile.handovers
    ]
    devices = list(profile.devices)
    crossings = [
        _compare_request(profile, devices, prompt, answer)
        for prompt in _PROMPT_TOKENS
        for answer in _NEW_TOKENS
        if len(devices) > 1 and prompt + answer <= context_length
    ]
    return Crossover(tuple(curves), tuple(handovers), tuple(crossings))


def _compare_request(profile: PhaseProfile, devices: Sequence[str], prompt: int, answer: int) -> RequestComparison:
    predictions = rank_device_pairs(profile, prefill=devices, decode=devices, prompt_tokens=prompt, new_tokens=answer)
    single = min((p for p in predictions if not p.is_split), key=lambda p: p.end_to_end_s)
    pair = min((p for p in predictions if p.is_split), key=lambda p: p.end_to_end_s)
    return RequestComparison(
        prompt, answer, single.decode, single.end_to_end_s, f"{pair.prefill} -> {pair.decode}", pair.end_to_end_s
    )
