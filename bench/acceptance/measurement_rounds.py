"""Runs plans in rounds, in processes that take turns: a machine that is slow for a minute is so for all of them.

Each process loads all plans of one model and then waits for its turn. What differs between two such processes, with
both heard over the same time, is what no prediction can be better than.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from trisect.partitioner.costs.trial_plans import trial_feeds
from trisect.profiles.measuring.plan_trial import OpenTrial, Trial
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan

from ..comparing.asking import Answer, Asked, answer_all

_LASTING_S, _FEWEST, _MOST = 0.12, 5, 60
_TIME_LIMIT_S = 300.0


def measure_in_turns(plans: Sequence[Plan], *, processes: int, rounds: int) -> Iterator[list[list[Trial]]]:
    """Let processes take turns at running the same plans.

    Parameters
    ----------
    plans : sequence of Plan
        Saved in folders.
    processes, rounds : int

    Yields
    ------
    list of list of Trial
        One round: for each process, a trial of each plan.

    Raises
    ------
    EngineFailed
        Where a process ends before its time.
    """
    question = {"folders": [plan.folder for plan in plans]}
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Asked(__name__, "a process")) for _ in range(processes)]
        for _ in range(rounds):
            yield [_trials(worker, question) for worker in workers]


def _trials(worker: Asked, question: Answer) -> list[Trial]:
    try:
        answer = worker.ask(question, limit_s=_TIME_LIMIT_S)
    except EngineFailed as error:
        message = f"the splits did not run: {error.reason}"
        raise EngineFailed(message, remedy="leave the model out with --models", reason=error.reason) from error
    return msgspec.convert(answer["trials"], list[Trial])


def median_trial(trials: Sequence[Trial]) -> Trial:
    """The middle of several trials of one plan."""
    segments = np.median([trial.segments_s for trial in trials], axis=0)
    spreads = np.median([trial.spreads for trial in trials], axis=0)
    latencies = [trial.latency_s for trial in trials]
    low, middle, high = np.percentile(latencies, (25, 50, 75))
    foreign = [trial.foreign for trial in trials if trial.foreign is not None]
    return Trial(
        float(middle), float((high - low) / middle), tuple(map(float, segments)), tuple(map(float, spreads)),
        sum(trial.runs for trial in trials), float(np.median(foreign)) if foreign else None,
    )  # fmt: skip


class _Rounds:
    """Plans that are loaded at the first question, and run at each."""

    def __init__(self) -> None:
        self._opened: list[OpenTrial] = []

    def answer(self, question: Answer) -> Answer:
        """Run each plan, one after the other."""
        if not self._opened:
            plans = [Plan.load(folder) for folder in question["folders"]]
            self._opened = [OpenTrial(plan, trial_feeds(plan)) for plan in plans]
        trials = [trial.run(lasting_s=_LASTING_S, fewest=_FEWEST, most=_MOST) for trial in self._opened]
        return {"trials": msgspec.to_builtins(trials)}


if __name__ == "__main__":
    answer_all(_Rounds().answer)
