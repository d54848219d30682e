"""The one clock of all searches: it stops what runs too long, and remembers that it did.

Searches count their steps, so that the same seed gives the same result on a slow and on a fast machine. The step count
follows from the time limit; the clock stops only what is far slower than expected, and the result says so.
"""

from __future__ import annotations

from math import isfinite
from time import monotonic

from trisect.runtime.errors import InvalidInput

CLOCK_RATE = 1.0
"""Seconds that pass for searches in a second: less in tests, so that a busy machine cuts no search short."""


class TimeLimit:
    """Seconds that are left, and whether the clock had to stop something.

    Examples
    --------
    >>> limit = TimeLimit(0.0)
    >>> limit.is_over(), limit.is_cut_short
    (True, True)
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_cut_short = False
        """Whether `is_over` has stopped a search."""
        self._begin = monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return CLOCK_RATE * (monotonic() - self._begin)

    def left_s(self) -> float:
        """Return the seconds until the limit; never negative."""
        return max(0.0, self.seconds - self.elapsed_s())

    def is_over(self) -> bool:
        """Return whether time is up; ask only where the search would otherwise continue."""
        if self.elapsed_s() < self.seconds:
            return False
        self.is_cut_short = True
        return True


def check_time_limit(time_limit_s: float | None) -> None:
    """Refuse a time limit that is not a positive number.

    Raises
    ------
    InvalidInput
    """
    if time_limit_s is not None and not (isfinite(time_limit_s) and time_limit_s > 0):
        raise InvalidInput(
            f"invalid time limit {time_limit_s} s: expected a positive number of seconds", remedy="correct it"
        )
