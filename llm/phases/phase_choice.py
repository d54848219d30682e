"""Which device should read a prompt and which should write the answer: predicted from measured curves, and chosen.

There is no rule in it that a GPU or an NPU be better at either phase: what was measured decides. Where a pair gains
less than the measurements can tell, one device does both, since a second one holds the weights a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trisect.runtime.errors import ProfileMissing

from .phase_measurement import PhasePoint, PhaseProfile

_INDISTINGUISHABLE = 0.03


@dataclass(frozen=True)
class PhasePrediction:
    """What one request is predicted to take on a pair of devices."""

    prefill: str
    """Device id."""
    decode: str
    prefill_s: float
    kv_s: float
    decode_s: float
    """All tokens after the first."""

    @property
    def end_to_end_s(self) -> float:
        """From the prompt's ids to the last token."""
        return self.prefill_s + self.kv_s + self.decode_s

    @property
    def is_split(self) -> bool:
        """True where two devices share the work."""
        return self.prefill != self.decode


def predict_phases(
    profile: PhaseProfile, prefill: str, decode: str, *, prompt_tokens: int, new_tokens: int
) -> PhasePrediction:
    """Predict one pair.

    Prefill is read from its curve; decode is integrated over the growing context.

    Raises
    ------
    ProfileMissing
        Where a device, or the hand-over between the two, was not measured.
    """
    for device in (prefill, decode):
        if device not in profile.devices:
            raise ProfileMissing(f"the phases of this model were not measured on {device}", remedy="measure it first")
    kv_s = 0.0
    if prefill != decode:
        found = [h.points for h in profile.handovers if (h.source, h.target) == (prefill, decode)]
        if not found:
            raise ProfileMissing(f"handing over from {prefill} to {decode} was not measured", remedy="measure it first")
        kv_s = float(_at(found[0], np.array([prompt_tokens]))[0])
    contexts = prompt_tokens + np.arange(max(0, new_tokens - 1))
    return PhasePrediction(
        prefill,
        decode,
        prefill_s=float(_at(profile.devices[prefill].prefill, np.array([prompt_tokens]))[0]),
        kv_s=kv_s,
        decode_s=float(_at(profile.devices[decode].decode, contexts).sum()),
    )


def choose_phases(
    profile: PhaseProfile,
    *,
    prefill: Sequence[str],
    decode: Sequence[str],
    prompt_tokens: int,
    new_tokens: int,
) -> list[PhasePrediction]:
    """All pairs of the devices allowed for each phase, the best first.

    Parameters
    ----------
    profile : PhaseProfile
    prefill, decode : sequence of str
        Device ids allowed for the phase; one each to force a pair.
    prompt_tokens, new_tokens : int

    Raises
    ------
    ProfileMissing
        Where one of them was not measured.
    """
    predictions = [
        predict_phases(profile, first, second, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
        for first in prefill
        for second in decode
    ]
    predictions.sort(key=lambda p: p.end_to_end_s)
    limit = predictions[0].end_to_end_s * (1 + _INDISTINGUISHABLE)
    # A stable sort: among those that are as good as the best, singles come first, the quicker ones before.
    as_good = [p for p in predictions if p.end_to_end_s <= limit]
    return sorted(as_good, key=lambda p: p.is_split) + predictions[len(as_good) :]


def _at(points: Sequence[PhasePoint], tokens: np.ndarray) -> np.ndarray:
    """Times at lengths, linear between measurements and on from the last two."""
    x = np.array([point.tokens for point in points], np.float64)
    y = np.array([point.time_s for point in points])
    result: np.ndarray = np.interp(tokens, x, y)
    if len(x) > 1:
        slope = max(0.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
        result = np.where(tokens > x[-1], y[-1] + slope * (tokens - x[-1]), result)
    return result
