"""Predicts what a segment takes that nobody has run yet, and how sure that is.

Three sources, the best that there is: the very segment was measured; its operators were measured, alone or in other
segments; or only other networks were. The sum of an engine's operators is not the time of a segment, because it fuses
them and keeps layouts of its own: so the model knows operators by their place, see
`trisect.profiles.costmodel.segment_terms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trisect.runtime.errors import ProfileMissing

from ..stored.segment_store import MeasuredSegment, segment_key
from .cost_terms import CostTerm
from .regression import Observation, Regression

_FEWEST = 30
_MEMORY_PRIOR, _MEMORY_NOISE, _CLOCK_NOISE_S = 0.6, 0.03, 0.3e-6
_KNOWN_NOISE = 0.07
"""What kernels of a model take in a piece of it, against what they took in the whole: seen on real models."""
_FARTHEST_OFF = 3.0
_STEPS = 5

Basis = Literal["measured", "learned"]


@dataclass(frozen=True)
class Estimate:
    """A predicted time."""

    time_s: float
    deviation: float
    """Standard deviation as a share of the time."""
    basis: Basis
    """``measured``: this very segment was; ``learned``: from others."""


@dataclass
class DeviceModel:
    """One device's cost model: a regression over all segments, and what is remembered of single summands.

    Examples
    --------
    >>> terms = (CostTerm("view"), CostTerm("call"))
    >>> rows = [MeasuredSegment(terms * (1 + i % 3), 1e-5 * (1 + i % 3), 0.0) for i in range(30)]
    >>> model = DeviceModel.learn(rows[:30])
    >>> round(model.estimate(rows[0].terms * 2).time_s * 1e6)
    20
    """

    regression: Regression
    residual: float
    """Typical error on segments that nothing was learned from, as a share."""
    corrections: Mapping[CostTerm, float] = field(default_factory=dict)
    """Summand -> the logarithm of how much longer it takes than the regression says."""
    measured: Mapping[str, MeasuredSegment] = field(default_factory=dict)

    @classmethod
    def learn(cls, segments: Sequence[MeasuredSegment], device_id: str = "this device") -> DeviceModel:
        """Fit to measured segments.

        Raises
        ------
        ProfileMissing
            For fewer than 30.
        """
        if len(segments) < _FEWEST:
            raise ProfileMissing(
                f"{len(segments)} measured segments of {device_id} are too few to learn from",
                remedy="run: trisect profile --networks 2m",
            )
        observations = [Observation(row.terms, row.time_s, row.is_kernel) for row in segments]
        regression = Regression.fit(observations)
        off = [abs(np.log(float(regression.term_times_s(o.terms).sum()) / o.time_s)) for o in observations]
        return cls(regression, float(np.median(off)) * 1.4826)

    def remembering(self, segments: Iterable[MeasuredSegment]) -> DeviceModel:
        """With segments and kernels of the model at hand, which say more of its own operators than any regression.

        Each summand gets a correction, so that the sums come out as measured: the most likely ones, by Gauss-Newton
        steps, where a small correction is likelier than a large one. A summand that makes up most of what was measured
        is corrected most.
        """
        rows = list(segments)
        position: dict[CostTerm, int] = {}
        for row in rows:
            for term in row.terms:
                position.setdefault(term, len(position))
        base_s = self.regression.term_times_s(list(position))
        count = np.zeros((len(rows), len(position)))
        for i, row in enumerate(rows):
            for term in row.terms:
                count[i, position[term]] += 1.0
        measured_s = np.array([row.time_s for row in rows])
        noise = np.array([np.hypot(_MEMORY_NOISE, _CLOCK_NOISE_S / row.time_s) for row in rows])
        found = np.zeros(len(position))
        for _ in range(_STEPS):
            parts = count * (base_s * np.exp(found))
            total = parts.sum(axis=1)
            share = parts / total[:, None]
            wanted = np.log(measured_s / total) + share @ found
            inner = _MEMORY_PRIOR**2 * share @ share.T + np.diag(noise**2)
            found = _MEMORY_PRIOR**2 * share.T @ np.linalg.solve(inner, wanted)
            found = np.clip(found, -_FARTHEST_OFF, _FARTHEST_OFF)
        corrections = {term: float(found[i]) for term, i in position.items()}
        exact = {row.key: row for row in rows}
        return DeviceModel(self.regression, self.residual, corrections, {**self.measured, **exact})

    def estimate(self, terms: Sequence[CostTerm]) -> Estimate:
        """Seconds of a segment, with how sure that is."""
        if self.measured:
            known = self.measured.get(segment_key(terms))
            if known is not None:
                return Estimate(known.time_s, known.spread, "measured")
        times = self.times_s(terms)
        total = float(times.sum())
        unknown = sum(t for term, t in zip(terms, times, strict=True) if term not in self.corrections)
        deviation = self.regression.deviation(terms)
        share = unknown / total if total > 0 else 1.0
        unsure = share * float(np.hypot(deviation, self.residual))
        return Estimate(total, float(np.hypot(unsure, _KNOWN_NOISE * (1 - share))), "learned")

    def time_s(self, terms: Sequence[CostTerm]) -> float:
        """Seconds of a segment."""
        if self.measured:
            known = self.measured.get(segment_key(terms))
            if known is not None:
                return known.time_s
        return float(self.times_s(terms).sum())

    def times_s(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Seconds of each summand: the quick query of a planner."""
        times = self.regression.term_times_s(terms)
        if not self.corrections:
            return times
        return times * np.exp([self.corrections.get(term, 0.0) for term in terms])
