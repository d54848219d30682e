"""Timing of calls, alone and in interleaved rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a call and the seconds that it took."""
    start_s = perf_counter()
    result = call()
    return result, perf_counter() - start_s


def median_s(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of several calls."""
    return statistics.median(timed(call)[1] for _ in range(rounds))


def time_interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Time calls in interleaved rounds; the first round warms up and is not counted.

    Parameters
    ----------
    calls : mapping of str to callable
    rounds : int
    repeat : int
        Calls of each in a round; their mean counts.

    Returns
    -------
    dict of str to list of float
        Seconds of a call, in each round.
    """

    def call_s(call: Callable[[], Any]) -> float:
        start_s = perf_counter()
        for _ in range(repeat):
            call()
        return (perf_counter() - start_s) / repeat

    return run_interleaved({name: partial(call_s, call) for name, call in calls.items()}, rounds)


def run_interleaved(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """As `time_interleaved`, for calls that return the seconds that count."""
    times_s: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            time_s = call()
            if number:
                times_s[name].append(time_s)
    return times_s


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of values measured in the same rounds."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
