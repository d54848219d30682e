"""Fits the times of segments as sums of terms, each a product of powers of its sizes.

Only sums were measured (a segment's time), and each term must stay positive: the weights are exponents, found by
damped Gauss-Newton steps with a Gaussian prior around an analytic estimate. A term without training data therefore
costs what its operations and bytes suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import exp

import numpy as np

from .cost_terms import CostTerm

_FLOPS_PER_S = 1.2e11
_BYTES_PER_S = 2e10
_MIN_S = 2e-7
_CENTRES = {
    "flops": 15.0, "inputs": 4.0, "outputs": 4.0, "pixels": 7.0, "window": 1.0, "bytes": 10.0, "rows": 4.0,
    "columns": 5.0, "depth": 4.0, "elements": 6.0, "narrow": 3.0, "hidden": 4.0, "channels": 4.0, "width": 4.0,
    "run": 5.0,
}  # fmt: skip
_PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "conv": (
        ("inputs", "outputs"), ("inputs", "pixels"), ("outputs", "pixels"), ("inputs", "inputs"),
        ("outputs", "outputs"), ("pixels", "pixels"), ("window", "pixels"), ("window", "inputs"), ("window", "window"),
        ("stride", "window"), ("stride", "pixels"), ("narrow", "narrow"),
    ),
    "product": (
        ("rows", "rows"), ("depth", "depth"), ("columns", "columns"), ("rows", "columns"), ("rows", "depth"),
        ("depth", "columns"), ("batch", "rows"), ("batch", "batch"),
    ),
    "recurrent": (("steps", "hidden"), ("hidden", "hidden"), ("width", "hidden")),
    "elementwise": (("bytes", "bytes"),),
    "rows": (("bytes", "bytes"), ("bytes", "width"), ("width", "width")),
    "pool": (("bytes", "bytes"), ("bytes", "window")),
    "move": (("bytes", "bytes"), ("bytes", "width"), ("width", "width"), ("run", "run"), ("bytes", "run")),
    "layout": (
        ("bytes", "bytes"), ("bytes", "channels"), ("channels", "channels"), ("bytes", "apart"),
        ("channels", "apart"), ("conflict", "channels"), ("conflict", "bytes"),
    ),
    "border": (("bytes", "bytes"),),
    "quantise": (("bytes", "bytes"),),
}  # fmt: skip
_CROSSED = {kind: tuple((a, b, f"{a} x {b}") for a, b in pairs) for kind, pairs in _PAIRS.items()}
_HINGE_POSITIONS = (("bytes", 9.0), ("bytes", 12.0), ("pixels", 6.0), ("flops", 12.0))
_HINGES = tuple((name, position, f"{name} beyond {position:g}") for name, position in _HINGE_POSITIONS)
_PRIOR_CONSTANT, _PRIOR_CATEGORY, _PRIOR_CROSS, _PRIOR_HINGE, _PRIOR_SIZE = 2.0, 0.6, 0.1, 0.2, 0.35
_RELATIVE_NOISE, _CLOCK_NOISE_S, _PROFILER_NOISE_S = 0.05, 4e-6, 5e-7
_OUTLIER = 3.0
_STEPS = 25
_MAX_STEP = 1.5
_CLIP = 8.0


@dataclass(frozen=True)
class Observation:
    """A segment's measured time and its terms."""

    terms: tuple[CostTerm, ...]
    time_s: float
    is_kernel: bool = False
    """Timed by an engine's profiler, whose clock is more precise than timing a call."""


@dataclass
class _FeatureMatrix:
    """The features of the terms of segments, as a sparse matrix."""

    segment: np.ndarray
    """Of each term."""
    base_s: np.ndarray
    """Analytic estimate of each term."""
    column: np.ndarray
    """Of each entry, as `value` and `row`."""
    value: np.ndarray
    row: np.ndarray
    """Position of the term."""
    segments: int


@dataclass
class Regression:
    """Weights of the features, and their uncertainty."""

    columns: dict[tuple[str, str], int] = field(default_factory=dict)
    ranges: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """Kind -> size -> smallest and largest value of the training data; sizes are clamped to it."""
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _cached_s: dict[CostTerm, float] = field(default_factory=dict)
    _by_kind: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def fit(cls, observations: Sequence[Observation]) -> Regression:
        """Fit to measured segments."""
        regression = cls()
        matrix = regression._matrix([o.terms for o in observations], fit=True)
        prior = np.array([_prior(name) for _, name in regression.columns])
        regression.weights = np.zeros(len(prior))
        times_s = np.array([o.time_s for o in observations])
        clock_s = np.where([o.is_kernel for o in observations], _PROFILER_NOISE_S, _CLOCK_NOISE_S)
        regression._minimise(matrix, times_s, _RELATIVE_NOISE * times_s + clock_s, 1.0 / prior**2)
        return regression

    def term_times_s(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """Return the seconds of each term."""
        return np.array([self._time_s(term) for term in terms])

    def unseen_variance(self, term: CostTerm) -> float:
        """Return the variance of a term's logarithm due to features without training data."""
        missing = [(name, value) for name, value in self._features(term) if (term.kind, name) not in self.columns]
        return sum((_prior(name) * value) ** 2 for name, value in missing)

    def _time_s(self, term: CostTerm) -> float:
        time_s = self._cached_s.get(term)
        if time_s is None:
            if not self._by_kind:
                for (kind, name), column in self.columns.items():
                    self._by_kind.setdefault(kind, {})[name] = float(self.weights[column])
            weights = self._by_kind.get(term.kind, {})
            power = sum(weights.get(name, 0.0) * value for name, value in self._features(term))
            time_s = self._cached_s[term] = _base_s(term) * exp(min(max(power, -_CLIP), _CLIP))
        return time_s

    def _encode(self, term: CostTerm, fit: bool) -> tuple[np.ndarray, np.ndarray]:
        columns, values = [], []
        if fit:
            known = self.ranges.setdefault(term.kind, {})
            for name, value in term.sizes:
                low, high = known.get(name, (value, value))
                known[name] = min(low, value), max(high, value)
        for name, value in self._features(term):
            key = (term.kind, name)
            if fit and key not in self.columns:
                self.columns[key] = len(self.columns)
            if key in self.columns:
                columns.append(self.columns[key])
                values.append(value)
        return np.array(columns, np.int64), np.array(values)

    def _features(self, term: CostTerm) -> list[tuple[str, float]]:
        known = self.ranges.get(term.kind, {})
        sizes = {}
        for name, value in term.sizes:
            low, high = known.get(name, (value, value))
            sizes[name] = low if value < low else high if value > high else value
        scaled = {name: (value - _CENTRES.get(name, 0.0)) / 2 for name, value in sizes.items()}
        features = [("start", 1.0), *scaled.items()]
        for a, b, crossed in _CROSSED.get(_family(term.kind), ()):
            if a in scaled and b in scaled:
                features.append((crossed, scaled[a] * scaled[b]))
        for name, position, hinge in _HINGES:
            if name in sizes:
                features.append((hinge, max(0.0, sizes[name] - position) / 2))
        return features + [(_category(category), 1.0) for category in term.categories]

    def _matrix(self, segments: Sequence[Sequence[CostTerm]], fit: bool) -> _FeatureMatrix:
        encoded: dict[CostTerm, tuple[np.ndarray, np.ndarray]] = {}
        owner: list[int] = []
        base: list[float] = []
        columns, values, rows = [], [], []
        for index, terms in enumerate(segments):
            for term in terms:
                if term not in encoded:
                    encoded[term] = self._encode(term, fit)
                term_columns, factors = encoded[term]
                columns.append(term_columns)
                values.append(factors)
                rows.append(np.full(len(term_columns), len(owner)))
                owner.append(index)
                base.append(_base_s(term))
        joined = [np.concatenate(part) if part else np.zeros(0) for part in (columns, values, rows)]
        return _FeatureMatrix(np.array(owner), np.array(base), joined[0].astype(int), joined[1], joined[2].astype(int),
                      len(segments))  # fmt: skip

    def _predict(self, matrix: _FeatureMatrix, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        powers = np.bincount(matrix.row, matrix.value * weights[matrix.column], minlength=len(matrix.base_s))
        times = matrix.base_s * np.exp(np.clip(powers, -_CLIP, _CLIP))
        return times, np.bincount(matrix.segment, times, minlength=matrix.segments)

    def _minimise(
        self, matrix: _FeatureMatrix, measured_s: np.ndarray, noise: np.ndarray, precision: np.ndarray
    ) -> None:  # fmt: skip
        """Levenberg-Marquardt with the Huber loss, so that outliers count linearly."""
        pairs = matrix.segment[matrix.row] * len(precision) + matrix.column

        def cost(weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            times, total = self._predict(matrix, weights)
            off = (total - measured_s) / noise
            size = np.abs(off)
            loss = np.where(size < _OUTLIER, 0.5 * off**2, _OUTLIER * size - 0.5 * _OUTLIER**2).sum()
            return float(loss + 0.5 * (precision * weights**2).sum()), times, off

        damping = 1e-2
        value, times, off = cost(self.weights)
        for _ in range(_STEPS):
            flat = np.bincount(pairs, times[matrix.row] * matrix.value, minlength=matrix.segments * len(precision))
            slopes = flat.reshape(matrix.segments, -1) / noise[:, None]
            trust = np.where(np.abs(off) < _OUTLIER, 1.0, _OUTLIER / np.maximum(np.abs(off), 1e-9))
            scaled = slopes * np.sqrt(trust)[:, None]
            gradient = slopes.T @ (trust * off) + precision * self.weights
            solve = _damped_solver(scaled, precision)
            for _ in range(_STEPS):
                tried = self.weights + np.clip(-solve(gradient, damping), -_MAX_STEP, _MAX_STEP)
                new_value, new_times, new_off = cost(tried)
                if new_value < value:
                    break
                damping *= 5
            else:
                return
            gained, value = value - new_value, new_value
            self.weights, times, off = tried, new_times, new_off
            damping = max(damping / 5, 1e-6)
            if gained < 1e-4 * value:
                return


def _damped_solver(rows: np.ndarray, precision: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
    """Return the solver of ``(A + damping * diag(A)) x = b`` for ``A = rows.T @ rows + diag(precision)``.

    Of fewer rows than columns, by the Woodbury identity, a system of as many equations as there are rows.
    """
    diagonal = (rows**2).sum(axis=0) + precision
    if len(rows) >= len(precision):
        information = rows.T @ rows + np.diag(precision)
        return lambda b, damping: np.linalg.solve(information + np.diag(damping * diagonal), b)

    def solve(b: np.ndarray, damping: float) -> np.ndarray:
        damped = precision + damping * diagonal
        inner = np.linalg.solve(np.eye(len(rows)) + (rows / damped) @ rows.T, rows @ (b / damped))
        result: np.ndarray = (b - rows.T @ inner) / damped
        return result

    return solve


def _base_s(term: CostTerm) -> float:
    return term.flops / _FLOPS_PER_S + term.size_bytes / _BYTES_PER_S + _MIN_S


def _prior(name: str) -> float:
    """Return the prior standard deviation of a weight."""
    if name == "start":
        return _PRIOR_CONSTANT
    if name.startswith("is "):
        return _PRIOR_CATEGORY
    return _PRIOR_CROSS if " x " in name else _PRIOR_HINGE if " beyond " in name else _PRIOR_SIZE


@cache
def _family(kind: str) -> str:
    return kind.replace(",", " ").split()[0]


@cache
def _category(category: str) -> str:
    return f"is {category}"
