"""Predicts from a phase profile how long a request takes on a pair of devices, and ranks the pairs.

The measured curves alone decide: no kind of device is assumed to be better at a phase. If a pair gains less than the
measurements can resolve, one device does both phases, since a second engine holds the weights a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trisect.runtime.errors import ProfileMissing

from .phase_profile import DevicePhases, PhasePoint, PhaseProfile

_INDISTINGUISHABLE = 0.03
"""Relative difference of two times below which measurements cannot distinguish them."""


@dataclass(frozen=True)
class PhasePrediction:
    """Predicted times of one request on a prefill and a decode device."""

    prefill: str
    """Device id."""
    decode: str
    prefill_s: float
    kv_s: float
    decode_s: float
    """All tokens after the first."""

    @property
    def end_to_end_s(self) -> float:
        """From the prompt's token ids to the last token."""
        return self.prefill_s + self.kv_s + self.decode_s

    @property
    def is_split(self) -> bool:
        """Whether prefill and decode are on different devices."""
        return self.prefill != self.decode


def predict_phases(
    profile: PhaseProfile, prefill: str, decode: str, *, prompt_tokens: int, new_tokens: int
) -> PhasePrediction:
    """Predict a request on one pair of devices.

    Prefill is interpolated on its curve, which has stairs where a device computes whole chunks; decode is summed over
    the growing context.

    Raises
    ------
    ProfileMissing
        If a device, or the hand-over between the two, was not measured.
    """
    for device in (prefill, decode):
        if device not in profile.devices:
            raise ProfileMissing(f"the phases of this model were not measured on {device}", remedy="measure it first")
    kv_s = 0.0
    if prefill != decode:
        curve = next((h.points for h in profile.handovers if (h.source, h.target) == (prefill, decode)), None)
        if curve is None:
            raise ProfileMissing(f"handing over from {prefill} to {decode} was not measured", remedy="measure it first")
        kv_s = float(_interpolate(curve, np.array([prompt_tokens]))[0])
    contexts = prompt_tokens + np.arange(max(0, new_tokens - 1))
    return PhasePrediction(
        prefill,
        decode,
        prefill_s=_prefill_s(profile.devices[prefill], prompt_tokens),
        kv_s=kv_s,
        decode_s=float(_interpolate(profile.devices[decode].decode, contexts).sum()),
    )


def rank_device_pairs(
    profile: PhaseProfile,
    *,
    prefill: Sequence[str],
    decode: Sequence[str],
    prompt_tokens: int,
    new_tokens: int,
) -> list[PhasePrediction]:
    """Return the predictions of all pairs of the devices allowed for each phase, best first.

    Parameters
    ----------
    prefill, decode : sequence of str
        Device ids allowed for the phase.

    Raises
    ------
    ProfileMissing
        If one of them was not measured.
    """
    predictions = [
        predict_phases(profile, first, second, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
        for first in prefill
        for second in decode
    ]
    predictions.sort(key=lambda p: p.end_to_end_s)
    limit = predictions[0].end_to_end_s * (1 + _INDISTINGUISHABLE)
    # A stable sort: of those indistinguishable from the best, single devices come first, in order of their times.
    as_good = [p for p in predictions if p.end_to_end_s <= limit]
    return sorted(as_good, key=lambda p: p.is_split) + predictions[len(as_good) :]


def _prefill_s(device: DevicePhases, tokens: int) -> float:
    """Return the time of a prompt; between whole chunks it is that of the next one."""
    chunk = device.chunk_tokens
    by_length = {-(-point.tokens // chunk) * chunk: point for point in device.prefill}
    points = [replace(point, tokens=length) for length, point in by_length.items()]
    return float(_interpolate(points, np.array([-(-tokens // chunk) * chunk]))[0])


def _interpolate(points: Sequence[PhasePoint], tokens: np.ndarray) -> np.ndarray:
    """Return times at numbers of tokens: linear between the points, extrapolated from the last two beyond them."""
    x = np.array([point.tokens for point in points], np.float64)
    y = np.array([point.time_s for point in points])
    result: np.ndarray = np.interp(tokens, x, y)
    if len(x) > 1:
        slope = max(0.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
        result = np.where(tokens > x[-1], y[-1] + slope * (tokens - x[-1]), result)
    return result
