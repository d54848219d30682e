"""How far one value is from another, for every type that flows: tensors of any dtype, texts, lists, optionals, maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

_EXACT_KINDS = "biu"


@dataclass(frozen=True)
class Difference:
    """The largest differences between two values; all 0 where they are the same."""

    max_abs: float
    """Infinite where shapes differ or only one side has a NaN."""
    max_rel: float
    """`max_abs` as a share of the largest magnitude that was wanted."""
    worst: float
    """Largest difference as a share of what is allowed at that element; above 1 is wrong."""
    where: tuple[int, ...] = ()
    """Index of the worst element, behind that of its list where it is in one."""

    @classmethod
    def total(cls) -> Difference:
        """Values that cannot be compared at all: of another shape, length or kind."""
        return cls(inf, inf, inf)


_SAME = Difference(0.0, 0.0, 0.0)


def compare(got: Any, wanted: Any, *, absolute: float, relative: float) -> Difference:
    """Compare a value with the right one.

    Parameters
    ----------
    got, wanted : array, list, dict or None
        Lists for sequences, None for an empty optional.
    absolute, relative : float
        ``|got - wanted| <= absolute + relative * |wanted|`` is allowed at every element.

    Examples
    --------
    >>> compare(np.array([1.0, 2.5]), np.array([1.0, 2.0]), absolute=0.0, relative=0.5)
    Difference(max_abs=0.5, max_rel=0.25, worst=0.5, where=(1,))
    >>> compare([np.zeros(2)], [], absolute=1.0, relative=1.0).max_abs
    inf
    """
    if isinstance(wanted, (list, tuple, dict)):
        return _compare_parts(got, wanted, absolute, relative)
    if wanted is None or got is None:
        return _SAME if got is wanted else Difference.total()
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape or (got.dtype.kind in "OUS") != (wanted.dtype.kind in "OUS"):
        return Difference.total()
    if wanted.dtype.kind in "OUS":
        unequal = np.argwhere(got.astype(str) != wanted.astype(str))
        return Difference(inf, inf, inf, _index(unequal[0])) if len(unequal) else _SAME
    return _compare_numbers(got, wanted, absolute, relative)


def _compare_parts(got: Any, wanted: Any, absolute: float, relative: float) -> Difference:
    is_map = isinstance(wanted, dict)
    if is_map and (not isinstance(got, dict) or got.keys() != wanted.keys()):
        return Difference.total()
    if not is_map and (not isinstance(got, (list, tuple)) or len(got) != len(wanted)):
        return Difference.total()
    worst = _SAME
    for index, key in enumerate(wanted if is_map else range(len(wanted))):
        found = compare(got[key], wanted[key], absolute=absolute, relative=relative)
        if found.worst > worst.worst or (found.worst == worst.worst and found.max_abs > worst.max_abs):
            worst = Difference(found.max_abs, found.max_rel, found.worst, (index, *found.where))
    return worst


def _compare_numbers(got: np.ndarray, wanted: np.ndarray, absolute: float, relative: float) -> Difference:
    if not wanted.size:
        return _SAME
    wide = np.complex128 if "c" in (got.dtype.kind, wanted.dtype.kind) else np.float64
    one, other = np.asarray(got, dtype=wide), np.asarray(wanted, dtype=wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if got.dtype.kind in _EXACT_KINDS and wanted.dtype.kind in _EXACT_KINDS:
        same = np.asarray(got == wanted)  # 64-bit integers are more than a float64 can tell apart
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(one - other)
        off = np.where(same, 0.0, np.where(np.isnan(off) | (off == 0.0), inf, off))
        size = np.abs(np.where(np.isfinite(other), other, 0.0))
        allowed = np.maximum(absolute + relative * size, np.finfo(np.float64).tiny)
        share = off / allowed
    at = int(np.argmax(share))
    max_abs, magnitude = float(off.max()), float(size.max())
    return Difference(
        max_abs,
        max_abs / magnitude if magnitude else max_abs,
        float(share.reshape(-1)[at]),
        _index(np.unravel_index(at, off.shape)) if max_abs else (),
    )


def _index(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
