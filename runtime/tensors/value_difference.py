"""Measures the difference of two values of any ONNX type: tensors of any dtype, strings, lists, optionals, maps.

Only floats have a tolerance. Integers, booleans and strings are counts, indices and names: they are equal or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

_TEXT_KINDS = "OUS"


@dataclass(frozen=True)
class ValueDifference:
    """The largest differences between two values; all 0 where they are equal."""

    max_abs: float
    """Infinite where shapes or dtypes differ, or only one value has a NaN."""
    max_rel: float
    """`max_abs` relative to the largest magnitude of the expected value."""
    worst: float
    """Largest difference relative to the tolerance at that element; above 1 is wrong. Infinite for integers, booleans
    and strings that differ at all."""
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
        Lists for sequences, None for an empty optional. Another dtype is a total difference; Python's own numbers, as
        in maps, have none.
    absolute, relative : float
        Tolerance of floats: ``|actual - expected| <= absolute + relative * |expected|`` at every element.

    Examples
    --------
    >>> compare(np.array([1.0, 2.5]), np.array([1.0, 2.0]), absolute=0.0, relative=0.5)
    ValueDifference(max_abs=0.5, max_rel=0.25, worst=0.5, where=(1,))
    >>> compare(np.array([1, 3]), np.array([1, 2]), absolute=9.0, relative=9.0)
    ValueDifference(max_abs=1.0, max_rel=0.5, worst=inf, where=(1,))
    >>> compare([np.zeros(2)], [], absolute=1.0, relative=1.0).max_abs
    inf
    """
    if isinstance(expected, (list, tuple, dict)):
        return _compare_parts(actual, expected, absolute, relative)
    if expected is None or actual is None:
        return _SAME if actual is expected else ValueDifference.total()
    if isinstance(actual, (list, tuple, dict)):
        return ValueDifference.total()
    have_dtypes = all(isinstance(value, (np.ndarray, np.generic)) for value in (actual, expected))
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or not _comparable(actual.dtype, expected.dtype, have_dtypes):
        return ValueDifference.total()
    if expected.dtype.kind in _TEXT_KINDS:
        return _compare_text(actual, expected)
    if not expected.size:
        return _SAME
    return (
        _compare_exactly(actual, expected)
        if _is_exact(expected.dtype)
        else _compare_floats(actual, expected, absolute, relative)
    )


def _comparable(actual: np.dtype, expected: np.dtype, have_dtypes: bool) -> bool:
    if expected.kind in _TEXT_KINDS or actual.kind in _TEXT_KINDS:
        return actual.kind in _TEXT_KINDS and expected.kind in _TEXT_KINDS
    if have_dtypes:
        return actual.newbyteorder("=") == expected.newbyteorder("=")
    return _is_exact(actual) == _is_exact(expected)


def _is_exact(dtype: np.dtype) -> bool:
    return dtype.kind in "biu" or dtype.name.startswith(("int", "uint"))  # int4 of ml_dtypes has the kind V


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


def _compare_text(actual: np.ndarray, expected: np.ndarray) -> ValueDifference:
    pairs = zip(actual.ravel().tolist(), expected.ravel().tolist(), strict=True)
    unequal = next((index for index, (one, other) in enumerate(pairs) if _text(one) != _text(other)), None)
    if unequal is None:
        return _SAME
    return ValueDifference(inf, inf, inf, _index(np.unravel_index(unequal, expected.shape)))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _compare_exactly(actual: np.ndarray, expected: np.ndarray) -> ValueDifference:
    if np.array_equal(actual, expected):
        return _SAME
    wide = np.dtype(np.uint64 if expected.dtype == np.uint64 else np.int64)
    x, y = actual.astype(wide), expected.astype(wide)
    off = np.where(x > y, x, y).astype(np.uint64) - np.where(x > y, y, x).astype(np.uint64)  # exact in 64 bits
    at = int(np.argmax(off))
    magnitude = float(np.max(np.abs(y.astype(np.float64))))
    max_abs = float(off.reshape(-1)[at])
    return ValueDifference(
        max_abs, max_abs / magnitude if magnitude else max_abs, inf, _index(np.unravel_index(at, off.shape))
    )


def _compare_floats(actual: np.ndarray, expected: np.ndarray, absolute: float, relative: float) -> ValueDifference:
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    x, y = np.asarray(actual, dtype=wide), np.asarray(expected, dtype=wide)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(x - y)
        off = np.where(same, 0.0, np.where(np.isnan(off), inf, off))
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
