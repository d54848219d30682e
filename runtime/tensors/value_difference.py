"""Measures the difference of two values of any ONNX type: tensors of any dtype, strings, lists, optionals, maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

_EXACT_KINDS = "biu"


@dataclass(frozen=True)
class ValueDifference:
    """The largest differences between two values; all 0 where they are equal."""

    max_abs: float
    """Infinite where shapes differ or only one value has a NaN."""
    max_rel: float
    """`max_abs` relative to the largest magnitude of the expected value."""
    worst: float
    """Largest difference relative to the tolerance at that element; above 1 is wrong."""
    where: tuple[int, ...] = ()
    """Index of the worst element, after the index in its list where there is one."""

    @classmethod
    def total(cls) -> ValueDifference:
        """Return the difference of values that cannot be compared: of another shape, length or type."""
        return cls(inf, inf, inf)


_SAME = ValueDifference(0.0, 0.0, 0.0)


def compare(actual: Any, expected: Any, *, absolute: float, relative: float) -> ValueDifference:
    """Compare a value with the expected one.

    Parameters
    ----------
    actual, expected : array, list, dict or None
        Lists for sequences, None for an empty optional.
    absolute, relative : float
        Tolerance: ``|actual - expected| <= absolute + relative * |expected|`` at every element.

    Examples
    --------
    >>> compare(np.array([1.0, 2.5]), np.array([1.0, 2.0]), absolute=0.0, relative=0.5)
    ValueDifference(max_abs=0.5, max_rel=0.25, worst=0.5, where=(1,))
    >>> compare([np.zeros(2)], [], absolute=1.0, relative=1.0).max_abs
    inf
    """
    if isinstance(expected, (list, tuple, dict)):
        return _compare_parts(actual, expected, absolute, relative)
    if expected is None or actual is None:
        return _SAME if actual is expected else ValueDifference.total()
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or (actual.dtype.kind in "OUS") != (expected.dtype.kind in "OUS"):
        return ValueDifference.total()
    if expected.dtype.kind in "OUS":
        unequal = np.argwhere(actual.astype(str) != expected.astype(str))
        return ValueDifference(inf, inf, inf, _index(unequal[0])) if len(unequal) else _SAME
    return _compare_numbers(actual, expected, absolute, relative)


def _compare_parts(actual: Any, expected: Any, absolute: float, relative: float) -> ValueDifference:
    is_map = isinstance(expected, dict)
    if is_map and (not isinstance(actual, dict) or actual.keys() != expected.keys()):
        return ValueDifference.total()
    if not is_map and (not isinstance(actual, (list, tuple)) or len(actual) != len(expected)):
        return ValueDifference.total()
    worst = _SAME
    for index, key in enumerate(expected if is_map else range(len(expected))):
        difference = compare(actual[key], expected[key], absolute=absolute, relative=relative)
        if (difference.worst, difference.max_abs) > (worst.worst, worst.max_abs):
            worst = replace(difference, where=(index, *difference.where))
    return worst


def _compare_numbers(actual: np.ndarray, expected: np.ndarray, absolute: float, relative: float) -> ValueDifference:
    if not expected.size:
        return _SAME
    wide = np.complex128 if "c" in (actual.dtype.kind, expected.dtype.kind) else np.float64
    x, y = np.asarray(actual, dtype=wide), np.asarray(expected, dtype=wide)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if actual.dtype.kind in _EXACT_KINDS and expected.dtype.kind in _EXACT_KINDS:
        same = np.asarray(actual == expected)  # float64 cannot represent all 64-bit integers
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(x - y)
        off = np.where(same, 0.0, np.where(np.isnan(off) | (off == 0.0), inf, off))
        size = np.abs(np.where(np.isfinite(y), y, 0.0))
        allowed = np.maximum(absolute + relative * size, np.finfo(np.float64).tiny)
        share = off / allowed
    at = int(np.argmax(share))
    max_abs, magnitude = float(off.max()), float(size.max())
    return ValueDifference(
        max_abs,
        max_abs / magnitude if magnitude else max_abs,
        float(share.reshape(-1)[at]),
        _index(np.unravel_index(at, off.shape)) if max_abs else (),
    )


def _index(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
