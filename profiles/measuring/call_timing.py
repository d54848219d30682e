"""Repeats calls for a given time, and summarises how long they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_WARM_UP = 2


@dataclass(frozen=True)
class CallTiming:
    """The time of repeated calls."""

    median_s: float
    spread: float
    """Interquartile range as a share of the median."""


def repeat(duration_s: float, min_runs: int, max_runs: int) -> Iterator[int]:
    """Count runs for ``duration_s`` seconds, but within limits."""
    end_s = time.perf_counter() + duration_s
    run = 0
    while run < min_runs or (run < max_runs and time.perf_counter() < end_s):
        yield run
        run += 1


def summarise(times_s: Sequence[float]) -> CallTiming:
    """Return median and spread.

    Examples
    --------
    >>> summarise([1.0, 2.0, 3.0])
    CallTiming(median_s=2.0, spread=0.5)
    """
    low, middle, high = np.percentile(times_s, (25, 50, 75))
    return CallTiming(float(middle), float((high - low) / middle) if middle > 0 else 0.0)


def time_calls(
    call: Callable[[], object], *, duration_s: float = 0.08, min_runs: int = 5, max_runs: int = 500
) -> CallTiming:
    """Time repeated calls, after two calls to warm up.

    Examples
    --------
    >>> time_calls(lambda: None, duration_s=0.0).median_s < 1
    True
    """
    for _ in range(_WARM_UP):
        call()
    times_s: list[float] = []
    for _ in repeat(duration_s, min_runs, max_runs):
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return summarise(times_s)
