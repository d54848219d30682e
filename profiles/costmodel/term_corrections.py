"""Corrects the times of cost terms by what was measured on this machine: a Gaussian process over logarithms.

A regression that was fitted to other networks, or on another machine, is wrong by a factor that terms share: all of a
device, those of one kind, those of similar sizes, and one term wherever it occurs. Measured sums of terms (kernels,
segments, whole models) determine these factors, each as far as the measurements tell. What remains unknown is the
variance of a prediction. Rasmussen and Williams 2006, chapter 2, https://gaussianprocess.org/gpml; sums of terms are
linearised around the estimate by Gauss-Newton steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .cost_terms import CostTerm

_STEPS = 6
_CORRECTION_MAX = 3.0
_SIZES_MAX = 8
"""Number of sizes by which terms are compared."""
_CATEGORY_DISTANCE = 1.0
"""Squared distance of two terms of one kind with different categories, in length scales."""


@dataclass(frozen=True)
class CorrectionPrior:
    """Standard deviations of the factors by which a regression is wrong, as logarithms."""

    device: float = 0.2
    """Shared by all terms of a device."""
    kind: float = 0.25
    """Shared by the terms of one kind."""
    similar: float = 0.3
    """Shared by terms of one kind and similar sizes."""
    term: float = 0.25
    """Of one term, wherever it occurs."""
    length: float = 1.5
    """Difference of the logarithms of sizes at which terms are no longer similar."""


@dataclass(frozen=True)
class MeasuredSum:
    """Terms whose times were measured together."""

    terms: tuple[CostTerm, ...]
    time_s: float
    noise: float
    """Relative standard deviation of the measurement."""


def no_variance(term: CostTerm) -> float:
    """Return 0: nothing is known of the term."""
    return 0.0


@dataclass(frozen=True)
class TermCorrections:
    """Factors of cost terms, as far as measurements determine them.

    Examples
    --------
    >>> a, b, c = CostTerm("view"), CostTerm("view", (("bytes", 1.0),)), CostTerm("pool")
    >>> known = TermCorrections.of([MeasuredSum((a,), 2e-6, 0.01)], lambda terms: np.full(len(terms), 1e-6))
    >>> [round(float(x), 1) for x in np.exp(known.means([a, b, c]))]
    [2.0, 1.6, 1.1]
    >>> bool(known.covariance([a])[0, 0] < known.covariance([b])[0, 0] < known.covariance([c])[0, 0])
    True
    """

    prior: CorrectionPrior = field(default_factory=CorrectionPrior)
    own_variance: Callable[[CostTerm], float] = no_variance
    """Of a term, beyond that of the prior: of features that no network had."""
    _known: _Encoded | None = None
    _means: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Weight of each known term in the mean of another."""
    _root: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """Reduces the prior's covariance with the known terms to the part that the measurements explain."""

    @classmethod
    def of(
        cls,
        sums: Sequence[MeasuredSum],
        base_s: Callable[[Sequence[CostTerm]], np.ndarray],
        prior: CorrectionPrior | None = None,
        own_variance: Callable[[CostTerm], float] = no_variance,
    ) -> TermCorrections:
        """Return the corrections that measured sums determine: the maximum a posteriori estimate.

        Parameters
        ----------
        base_s : callable
            Returns the seconds of each term without corrections.
        """
        prior = prior or CorrectionPrior()
        if not sums:
            return cls(prior, own_variance)
        position: dict[CostTerm, int] = {}
        for row in sums:
            for term in row.terms:
                position.setdefault(term, len(position))
        terms = list(position)
        times_s = base_s(terms)
        count = np.zeros((len(sums), len(terms)))
        for i, row in enumerate(sums):
            for term in row.terms:
                count[i, position[term]] += 1.0
        measured_s = np.array([row.time_s for row in sums])
        noise = np.diag([row.noise**2 for row in sums])
        known = _Encoded.of(terms, own_variance)
        covariance = _covariance(known, known, prior)
        correction = np.zeros(len(terms))
        for _ in range(_STEPS):
            parts_s = count * (times_s * np.exp(correction))
            total_s = parts_s.sum(axis=1)
            share = parts_s / total_s[:, None]
            residual = np.log(measured_s / total_s) + share @ correction
            inner = share @ covariance @ share.T + noise
            weights = share.T @ np.linalg.solve(inner, residual)
            correction = np.clip(covariance @ weights, -_CORRECTION_MAX, _CORRECTION_MAX)
        root = np.linalg.solve(np.linalg.cholesky(inner), share)
        return cls(prior, own_variance, known, weights, root)

    def means(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Return the logarithm of each term's factor."""
        if self._known is None or not terms:
            return np.zeros(len(terms))
        means = _covariance(_Encoded.of(terms, self.own_variance), self._known, self.prior) @ self._means
        return np.asarray(np.clip(means, -_CORRECTION_MAX, _CORRECTION_MAX))

    def covariance(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Return the covariance of the logarithms of the factors of different terms, as a matrix."""
        encoded = _Encoded.of(terms, self.own_variance)
        covariance = _covariance(encoded, encoded, self.prior)
        if self._known is None:
            return covariance
        explained = self._root @ _covariance(self._known, encoded, self.prior)
        return np.asarray(covariance - explained.T @ explained)


@dataclass(frozen=True)
class _Encoded:
    """Terms as arrays."""

    kind: np.ndarray
    categories: np.ndarray
    identity: np.ndarray
    sizes: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, terms: Sequence[CostTerm], own_variance: Callable[[CostTerm], float]) -> _Encoded:
        sizes = np.zeros((len(terms), _SIZES_MAX))
        for i, term in enumerate(terms):
            sizes[i, : len(term.sizes)] = [value for _, value in term.sizes[:_SIZES_MAX]]
        kind = np.array([hash(term.kind) for term in terms], np.int64)
        categories = np.array([hash(term.categories) for term in terms], np.int64)
        identity = np.array([hash(term) for term in terms], np.int64)
        return cls(kind, categories, identity, sizes, np.array([own_variance(term) for term in terms]))


def _covariance(a: _Encoded, b: _Encoded, prior: CorrectionPrior) -> np.ndarray:
    same_kind = a.kind[:, None] == b.kind[None, :]
    squares = (a.sizes**2).sum(axis=1)[:, None] + (b.sizes**2).sum(axis=1)[None, :] - 2 * a.sizes @ b.sizes.T
    distance = np.maximum(squares, 0.0) / prior.length**2
    distance = distance + _CATEGORY_DISTANCE * (a.categories[:, None] != b.categories[None, :])
    shared = prior.kind**2 + prior.similar**2 * np.exp(-0.5 * distance)
    same_term = a.identity[:, None] == b.identity[None, :]
    return np.asarray(prior.device**2 + same_kind * shared + same_term * (prior.term**2 + a.variance[:, None]))
