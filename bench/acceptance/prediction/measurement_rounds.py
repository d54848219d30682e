"""Runs plans in rounds, in processes that take turns: a slow minute of the machine slows all of them.

Each process loads all plans of one model and then waits for its turn. How far two such processes differ, measured over
the same time, is the repeatability: no prediction can be better.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from trisect.profiles.measuring.call_timing import summarise
from trisect.profiles.measuring.plan_trial import PlanTiming, PlanTrial
from trisect.runtime.child_process import ChildProcess, ChildProcessFailed
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds

_LASTING_S, _RUNS_MIN, _RUNS_MAX = 0.12, 5, 60
_TIME_LIMIT_S = 300.0


def measure_in_turns(plans: Sequence[Plan], *, processes: int, rounds: int) -> Iterator[list[list[PlanTiming]]]:
    """Run the same plans in several processes, one process after the other.

    Parameters
    ----------
    plans : sequence of Plan
        Saved in folders.
    processes, rounds : int

    Yields
    ------
    list of list of PlanTiming
        One round: for each process, a trial of each plan.

    Raises
    ------
    EngineFailed
        Where a process fails or ends.
    """
    request = {"folders": [plan.folder for plan in plans]}
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(ChildProcess(PlanRunner, "a process")) for _ in range(processes)]
        for _ in range(rounds):
            yield [_trials(child, request) for child in children]


def _trials(child: ChildProcess, request: dict[str, Any]) -> list[PlanTiming]:
    try:
        return msgspec.convert(child.request(request, time_limit_s=_TIME_LIMIT_S), list[PlanTiming])
    except ChildProcessFailed as error:
        message = f"the splits did not run: {error.reason}"
        raise EngineFailed(message, remedy="leave the model out with --models", reason=error.reason) from error


def median_trial(trials: Sequence[PlanTiming]) -> PlanTiming:
    """Return the medians of several trials of one plan."""
    segments = np.median([trial.segments_s for trial in trials], axis=0)
    spreads = np.median([trial.spreads for trial in trials], axis=0)
    latency = summarise([trial.latency_s for trial in trials])
    other_loads = [trial.other_load for trial in trials if trial.other_load is not None]
    return PlanTiming(
        latency.median_s, latency.spread, tuple(map(float, segments)), tuple(map(float, spreads)),
        sum(trial.runs for trial in trials), float(np.median(other_loads)) if other_loads else None,
    )  # fmt: skip


class PlanRunner:
    """Loads plans at the first request, and runs them at each."""

    def __init__(self) -> None:
        self._opened: list[PlanTrial] = []

    def __call__(self, request: dict[str, Any]) -> list[PlanTiming]:
        """Run each plan, one after the other."""
        if not self._opened:
            plans = [Plan.load(folder) for folder in request["folders"]]
            self._opened = [PlanTrial(plan, plan_feeds(plan)) for plan in plans]
        return [trial.run(duration_s=_LASTING_S, min_runs=_RUNS_MIN, max_runs=_RUNS_MAX) for trial in self._opened]
