"""Runs the best plans in turns, and ranks them: a split comes first only if it is faster beyond the noise.

The worse ones drop out as the rounds go on (successive halving: Jamieson and Talwalkar 2016,
http://proceedings.mlr.press/v51/jamieson16). Plans are compared by the ratios of times in the same round.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

import numpy as np

from trisect.profiles.measuring.call_timing import summarise
from trisect.runtime.plans.plan import Plan

from .candidate_placements import CandidatePlacement
from .contender_runs import ContenderRuns

log = logging.getLogger(__name__)

_FINALISTS_MAX, _FINAL_RATIO, _DROPPED_RATIO = 4, 1.12, 1.03
_ROUNDS, _ROUNDS_DECIDED, _ROUNDS_MAX = 4, 8, 20
"""Rounds at a time, rounds after which a clear result ends the finals, and rounds at most."""
_DISTURBED_MAX = 8
"""Rounds that are repeated because of other processes; then the times count as they are."""
_TURN_S = 0.03
_NOISE_MIN, _NOISE_UNKNOWN = 0.02, 0.05
_FASTER_ROUNDS_MIN = 0.75
"""Share of the rounds in which a split has to be faster than the best device alone."""
_IQR_PER_DEVIATION, _MEDIAN_ERROR, _CONFIDENCE = 1.349, 1.2533, 2.0
"""Of a normal distribution: interquartile range, standard error of the median by that of the mean, and how many of
these a difference has to exceed."""
_TIME_LIMIT_S, _RUNS_IN_LIMIT = 20.0, 30
_FINAL_SHARE = 0.3
"""Of the time budget, for the finals."""


class TimeBudget:
    """The time for planning and running candidates, of which the last part belongs to the finals.

    Parameters
    ----------
    seconds : float, optional
        None = no limit.
    clock : callable
        Returns the time in seconds.

    Examples
    --------
    >>> times = iter([0.0, 1.0, 9.5])
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


@dataclass(eq=False)
class MeasuredContender:
    """A plan that ran."""

    plan: Plan
    candidate: CandidatePlacement
    value_s: float
    """The objective in its first runs."""
    device: str = ""
    """Of a plan of one device alone."""
    turns_s: list[float | None] = field(default_factory=list)
    """The objective in each round in which it took part; None where it failed."""

    @property
    def measured_s(self) -> float:
        """The objective: in turns with others where it ran so."""
        turns_s = [time_s for time_s in self.turns_s if time_s is not None]
        return statistics.median(turns_s) if turns_s else self.value_s

    @property
    def spread(self) -> float:
        """Interquartile range of its turns as a share of their median."""
        turns_s = [time_s for time_s in self.turns_s if time_s is not None]
        return summarise(turns_s).spread if turns_s else 0.0


@dataclass(frozen=True)
class Ranking:
    """Contenders, the one to use first."""

    contenders: tuple[MeasuredContender, ...]
    noise: float | None
    """Relative differences to the best device alone below this one are noise; None where no split ran in turns with
    it."""


@dataclass(frozen=True)
class Finals:
    """What happened when the best contenders ran in turns."""

    failed: list[MeasuredContender]
    was_disturbed: bool
    """Whether other processes used the processor all the time."""


def run_finals(
    contenders: Sequence[MeasuredContender], runs: ContenderRuns, time_left_s: Callable[[], float]
) -> Finals:
    """Run the best contenders in turns, as long as there is time and more than one is left.

    Parameters
    ----------
    time_left_s : callable
        The first rounds run also when there is none.

    Raises
    ------
    ChildProcessFailed
        When the process crashed or exceeded a limit.
    """
    failed: list[MeasuredContender] = []
    finalists = _finalists(contenders)
    reference = _best_alone(finalists)
    rounds = disturbed = 0
    while len(finalists) > 1 and rounds < _ROUNDS_MAX and not (rounds and time_left_s() <= 0):
        round_s = sum(contender.value_s + max(contender.value_s, _TURN_S) for contender in finalists)
        if not rounds and _ROUNDS_DECIDED * round_s > time_left_s():
            best_split = next((contender for contender in finalists if contender is not reference), None)
            finalists = [contender for contender in finalists if contender in (reference, best_split)]
        for row in runs.in_turns(
            [contender.plan for contender in finalists],
            rounds=_ROUNDS, turn_s=_TURN_S, time_limit_s=_TIME_LIMIT_S + _RUNS_IN_LIMIT * round_s,
        ):  # fmt: skip
            failed += [
                c for c, time_s in zip(finalists, row.times_s, strict=True) if time_s is None and c not in failed
            ]
            if row.is_disturbed and disturbed < _DISTURBED_MAX and time_left_s() > 0:
                disturbed += 1
                continue
            rounds += 1
            for contender, time_s in zip(finalists, row.times_s, strict=True):
                contender.turns_s.append(time_s)
        finalists = _still_in([contender for contender in finalists if contender not in failed], reference)
        if rounds >= _ROUNDS_DECIDED and _is_decided(finalists):
            break
    for contender in filter(lambda contender: contender.turns_s, contenders):
        log.info(
            "%s in %d segments: %.4g ms in %d turns, spread %.1f %%", contender.device or "split",
            len(contender.plan.segments), contender.measured_s * 1e3, len(contender.turns_s), 100 * contender.spread,
        )  # fmt: skip
    return Finals(failed, disturbed >= _DISTURBED_MAX)


def _still_in(finalists: list[MeasuredContender], reference: MeasuredContender | None) -> list[MeasuredContender]:
    """Return the finalists without those that are clearly slower than the best; the best device alone stays."""
    if not finalists:
        return []
    best = min(finalists, key=lambda contender: contender.measured_s)
    return [c for c in finalists if c in (best, reference) or _ratio(c, best)[0] <= _DROPPED_RATIO]


def _is_decided(finalists: Sequence[MeasuredContender]) -> bool:
    if not finalists:
        return True
    best = min(finalists, key=lambda contender: contender.measured_s)
    ratios = [_ratio(contender, best) for contender in finalists if contender is not best]
    return all(ratio - noise > 1 or noise <= _NOISE_MIN for ratio, noise in ratios)


def ranked(contenders: Sequence[MeasuredContender]) -> Ranking:
    """Rank contenders: splits that are faster than the best device alone beyond the noise, devices alone, others."""
    alone = _best_alone(contenders)
    # First runs at different times are compared only where nothing ran in turns.
    had_turns = any(contender.turns_s for contender in contenders)
    by_time = sorted(contenders, key=lambda contender: (not contender.turns_s, contender.measured_s))
    if alone is None:
        return Ranking(tuple(by_time), None)
    ratios = {id(contender): _ratio(contender, alone) for contender in contenders}

    def key(contender: MeasuredContender) -> tuple[int, float]:
        ratio, noise = ratios[id(contender)]
        if contender.device:
            return (1, contender.measured_s) if contender is not alone else (1, 0.0)
        may_win = bool(contender.turns_s) or not had_turns
        return (0, ratio) if may_win and ratio < 1 - noise and _is_mostly_faster(contender, alone) else (2, ratio)

    order = sorted(by_time, key=key)
    rivals = [ratios[id(contender)] for contender in contenders if not contender.device and contender.turns_s]
    return Ranking(tuple(order), min(rivals)[1] if rivals else None)


def _is_mostly_faster(contender: MeasuredContender, other: MeasuredContender) -> bool:
    pairs = _pairs(contender, other)
    return sum(a < b for a, b in pairs) >= _FASTER_ROUNDS_MIN * len(pairs)


def _pairs(contender: MeasuredContender, other: MeasuredContender) -> list[tuple[float, float]]:
    """Return the times of two contenders in the rounds in which both ran."""
    rounds = zip(contender.turns_s, other.turns_s, strict=False)
    return [(a, b) for a, b in rounds if a is not None and b is not None]


def _finalists(contenders: Sequence[MeasuredContender]) -> list[MeasuredContender]:
    by_time = sorted(contenders, key=lambda contender: contender.value_s)
    near = [c for c in by_time if c.value_s <= _FINAL_RATIO * by_time[0].value_s][:_FINALISTS_MAX]
    alone = _best_alone(contenders)
    return near if alone is None or alone in near else [*near, alone]


def _best_alone(contenders: Sequence[MeasuredContender]) -> MeasuredContender | None:
    alone = [contender for contender in contenders if contender.device]
    return min(alone, key=lambda contender: (not contender.turns_s, contender.measured_s), default=None)


def _ratio(contender: MeasuredContender, other: MeasuredContender) -> tuple[float, float]:
    """Return how long one takes in relation to another, and the noise of that ratio."""
    pairs = _pairs(contender, other)
    if len(pairs) < _ROUNDS:
        return contender.measured_s / other.measured_s, _NOISE_UNKNOWN
    ratios = [a / b for a, b in pairs]
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    deviation = float(high - low) / _IQR_PER_DEVIATION
    return float(middle), max(_NOISE_MIN, _CONFIDENCE * _MEDIAN_ERROR * deviation / sqrt(len(ratios)))
