"""Timing of calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a call and the seconds that it took."""
    start_s = perf_counter()
    result = call()
    return result, perf_counter() - start_s


def median_s(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of several calls."""
    return statistics.median(timed(call)[1] for _ in range(rounds))
