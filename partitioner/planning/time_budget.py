"""The time for planning and running candidates, of which the last part belongs to the finals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from math import inf

_FINAL_SHARE = 0.3


class TimeBudget:
    """Seconds from now on, and what candidates took so far.

    Parameters
    ----------
    seconds : float, optional
        None = no limit.
    clock : callable
        Returns the time in seconds.

    Examples
    --------
    >>> times = iter([0.0, 1.0, 6.5])
    >>> budget = TimeBudget(10.0, clock=lambda: next(times))
    >>> budget.add_cost(0.5)
    >>> budget.has_time(), budget.has_time()
    (True, False)
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock, self._start_s = clock, clock()
        self._costs_s: list[float] = []

    def add_cost(self, cost_s: float) -> None:
        """Record what a candidate took."""
        self._costs_s.append(cost_s)

    def left_s(self) -> float:
        """Return the seconds left; infinite without a limit, negative after it."""
        return inf if self.seconds is None else self.seconds - (self._clock() - self._start_s)

    def has_time(self) -> bool:
        """Return whether another candidate can run before the time for the finals begins."""
        if self.seconds is None:
            return True
        needed_s = statistics.median(self._costs_s) if self._costs_s else 0.0
        return self.left_s() >= needed_s + _FINAL_SHARE * self.seconds
