"""Predicts the times of segments that were never run, with their uncertainty.

A regression over synthetic networks gives the time of each cost term; measurements of the model itself (its kernels,
the whole model, some of its segments) correct it. The sum over an engine's operators is not the time of a segment,
because engines fuse operators and choose layouts: the terms of a cost therefore include the operator's context, see
`trisect.profiles.costmodel.segment_terms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from trisect.runtime.errors import ProfileMissing

from ..stored.segment_store import MeasuredSegment
from .cost_terms import CostTerm
from .regression import Observation, Regression
from .term_corrections import CorrectionPrior, MeasuredSum, TermCorrections

_MIN_SEGMENTS = 30
_SEGMENT_NOISE, _KERNEL_NOISE, _CLOCK_NOISE_S = 0.04, 0.06, 0.3e-6
"""Relative deviation of a measured segment, and of a kernel's time from its time in another segment."""
_ROWS_MAX = 1500
"""Newest measurements that are used: the time of a refinement grows with their cube."""


@dataclass(frozen=True)
class Estimate:
    """A predicted time."""

    time_s: float
    deviation: float
    """Standard deviation as a share of the time."""


@dataclass(frozen=True)
class JointEstimate:
    """Predicted times of several segments of one device."""

    times_s: tuple[float, ...]
    covariance: np.ndarray
    """In square seconds: the errors of one device's segments are correlated."""


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
    prior: CorrectionPrior = field(default_factory=CorrectionPrior)
    rows: tuple[MeasuredSegment, ...] = ()
    """Measurements of the user's models, by which the regression is corrected."""
    origin: str = ""
    """Engine and machine whose networks the regression was fitted to; empty for this machine."""
    _cached_s: dict[CostTerm, float] = field(default_factory=dict, repr=False)

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
        return cls(Regression.fit([Observation(row.terms, row.time_s, row.is_kernel) for row in segments]))

    def refined(self, segments: Iterable[MeasuredSegment]) -> DeviceModel:
        """Return the model corrected also by these segments and kernels."""
        return DeviceModel(self.regression, self.prior, (*self.rows, *segments), self.origin)

    @cached_property
    def corrections(self) -> TermCorrections:
        """What the measurements tell of the terms."""
        sums = [
            MeasuredSum(
                row.terms,
                row.time_s,
                float(np.hypot(_KERNEL_NOISE if row.is_kernel else _SEGMENT_NOISE, _CLOCK_NOISE_S / row.time_s)),
            )
            for row in self.rows[-_ROWS_MAX:]
        ]
        return TermCorrections.of(sums, self.regression.term_times_s, self.prior, self.regression.unseen_variance)

    def estimate(self, terms: Sequence[CostTerm]) -> Estimate:
        """Return the predicted time of a segment, with its uncertainty."""
        joint = self.joint_estimate([terms])
        time_s = joint.times_s[0]
        return Estimate(time_s, float(np.sqrt(max(0.0, joint.covariance[0, 0]))) / max(time_s, 1e-12))

    def joint_estimate(self, segments: Sequence[Sequence[CostTerm]]) -> JointEstimate:
        """Return the predicted times of segments that belong to one plan, with their covariance."""
        position: dict[CostTerm, int] = {}
        for term in (term for terms in segments for term in terms):
            position.setdefault(term, len(position))
        terms = list(position)
        times_s = self.times_s(terms)
        parts_s = np.zeros((len(segments), len(terms)))
        for i, segment in enumerate(segments):
            for term in segment:
                parts_s[i, position[term]] += times_s[position[term]]
        covariance = parts_s @ self.corrections.covariance(terms) @ parts_s.T
        totals_s = parts_s.sum(axis=1)
        return JointEstimate(tuple(totals_s.tolist()), covariance + np.diag((_SEGMENT_NOISE * totals_s) ** 2))

    def time_s(self, terms: Sequence[CostTerm]) -> float:
        """Return the predicted seconds of a segment."""
        return float(self.times_s(terms).sum())

    def times_s(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Return the predicted seconds of each term."""
        new = list(dict.fromkeys(term for term in terms if term not in self._cached_s))
        if new:
            times_s = self.regression.term_times_s(new) * np.exp(self.corrections.means(new))
            self._cached_s.update(zip(new, times_s.tolist(), strict=True))
        return np.array([self._cached_s[term] for term in terms])
