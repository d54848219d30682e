"""Predicts the time of a segment that was never run, with its uncertainty.

The best of three sources is used: a measurement of the same segment; measurements of its operators, alone or in other
segments; or measurements of synthetic networks. The sum over an engine's operators is not the time of a segment,
because engines fuse operators and choose layouts: the terms of a cost therefore include the operator's context, see
`trisect.profiles.costmodel.segment_terms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trisect.runtime.errors import ProfileMissing

from ..stored.segment_store import MeasuredSegment, segment_key
from .cost_terms import CostTerm
from .regression import Observation, Regression

_MIN_SEGMENTS = 30
_CORRECTION_PRIOR, _MEASUREMENT_NOISE, _CLOCK_NOISE_S = 0.6, 0.03, 0.3e-6
_KERNEL_NOISE = 0.07
"""Relative deviation of a kernel's time in a segment from its time in the whole model, as observed on real models."""
_CORRECTION_MAX = 3.0
_STEPS = 5


@dataclass(frozen=True)
class Estimate:
    """A predicted time."""

    time_s: float
    deviation: float
    """Standard deviation as a share of the time."""


@dataclass
class DeviceModel:
    """The cost model of one device: a regression over all segments, with corrections of single terms.

    Examples
    --------
    >>> terms = (CostTerm("view"), CostTerm("call"))
    >>> rows = [MeasuredSegment(terms * (1 + i % 3), 1e-5 * (1 + i % 3), 0.0) for i in range(30)]
    >>> model = DeviceModel.fit(rows)
    >>> round(model.estimate(rows[0].terms * 2).time_s * 1e6)
    20
    """

    regression: Regression
    residual: float
    """Typical relative error on segments with no measured terms."""
    corrections: Mapping[CostTerm, float] = field(default_factory=dict)
    """Term -> logarithm of the ratio of its time to the regression's prediction."""
    measured: Mapping[str, MeasuredSegment] = field(default_factory=dict)

    @classmethod
    def fit(cls, segments: Sequence[MeasuredSegment], device_id: str = "this device") -> DeviceModel:
        """Fit a model to measured segments.

        Raises
        ------
        ProfileMissing
            For fewer than 30.
        """
        if len(segments) < _MIN_SEGMENTS:
            raise ProfileMissing(
                f"{len(segments)} measured segments of {device_id} are too few to fit a cost model",
                remedy="run `trisect profile --networks 2m`",
            )
        observations = [Observation(row.terms, row.time_s, row.is_kernel) for row in segments]
        regression = Regression.fit(observations)
        errors = [abs(np.log(float(regression.term_times_s(o.terms).sum()) / o.time_s)) for o in observations]
        return cls(regression, float(np.median(errors)) * 1.4826)

    def refined(self, segments: Iterable[MeasuredSegment]) -> DeviceModel:
        """Return the model refined with segments and kernels of one model.

        Each term gets a correction such that the sums match the measurements: the maximum a posteriori estimate under
        a Gaussian prior, by Gauss-Newton steps. A term that dominates a measured segment is corrected most.
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
        noise = np.array([np.hypot(_MEASUREMENT_NOISE, _CLOCK_NOISE_S / row.time_s) for row in rows])
        correction = np.zeros(len(position))
        for _ in range(_STEPS):
            parts = count * (base_s * np.exp(correction))
            total = parts.sum(axis=1)
            share = parts / total[:, None]
            residual = np.log(measured_s / total) + share @ correction
            inner = _CORRECTION_PRIOR**2 * share @ share.T + np.diag(noise**2)
            correction = _CORRECTION_PRIOR**2 * share.T @ np.linalg.solve(inner, residual)
            correction = np.clip(correction, -_CORRECTION_MAX, _CORRECTION_MAX)
        corrections = {term: float(correction[i]) for term, i in position.items()}
        exact = {row.key: row for row in rows}
        return DeviceModel(self.regression, self.residual, corrections, {**self.measured, **exact})

    def estimate(self, terms: Sequence[CostTerm]) -> Estimate:
        """Return the predicted time of a segment, with its uncertainty."""
        if row := self._measured_row(terms):
            return Estimate(row.time_s, row.spread)
        times = self.times_s(terms)
        total = float(times.sum())
        uncorrected_s = sum(t for term, t in zip(terms, times, strict=True) if term not in self.corrections)
        deviation = self.regression.deviation(terms)
        share = uncorrected_s / total if total > 0 else 1.0
        uncertainty = share * float(np.hypot(deviation, self.residual))
        return Estimate(total, float(np.hypot(uncertainty, _KERNEL_NOISE * (1 - share))))

    def time_s(self, terms: Sequence[CostTerm]) -> float:
        """Return the predicted seconds of a segment."""
        row = self._measured_row(terms)
        return float(self.times_s(terms).sum()) if row is None else row.time_s

    def times_s(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Return the predicted seconds of each term."""
        times = self.regression.term_times_s(terms)
        if not self.corrections:
            return times
        return times * np.exp([self.corrections.get(term, 0.0) for term in terms])

    def _measured_row(self, terms: Sequence[CostTerm]) -> MeasuredSegment | None:
        return self.measured.get(segment_key(terms)) if self.measured else None
