"""Runs plans in rounds, in processes that take turns: a machine that is slow for a minute is so for all of them.

Each process loads all plans of one model and then waits for its turn. What differs between two such processes, with
both heard over the same time, is what no prediction can be better than.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from trisect.partitioner.trialplans import trial_feeds
from trisect.profiles.trials import OpenTrial, Trial
from trisect.runtime.errors import EngineFailed, TrisectError
from trisect.runtime.plan import Plan

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
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(plans)) for _ in range(processes)]
        for _ in range(rounds):
            yield [_ask(worker) for worker in workers]


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


@contextlib.contextmanager
def _worker(plans: Sequence[Plan]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", __name__, *(plan.folder for plan in plans)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str]) -> list[Trial]:
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(_TIME_LIMIT_S, process.kill)
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
        answer = process.stdout.readline()
    finally:
        is_late = not timer.is_alive()
        timer.cancel()
    if answer:
        return msgspec.json.decode(answer, type=list[Trial])
    if is_late:
        raise EngineFailed(f"the splits did not run within {_TIME_LIMIT_S:g} s", remedy="give fewer --splits")
    _, told = process.communicate()
    reason = (told.strip().splitlines() or ["no reason given"])[-1]
    raise EngineFailed(f"the splits did not run: {reason}", remedy="leave the model out with --models")


def main(*folders: str) -> None:
    """Load the plans in these folders; then, at each line on standard input, run each and write a line of trials."""
    with contextlib.ExitStack() as stack:
        plans = [Plan.load(folder) for folder in folders]
        opened = [stack.enter_context(OpenTrial(plan, trial_feeds(plan))) for plan in plans]
        for _ in sys.stdin:
            trials = [trial.run(lasting_s=_LASTING_S, fewest=_FEWEST, most=_MOST) for trial in opened]
            sys.stdout.write(msgspec.json.encode(trials).decode() + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TrisectError as error:
        sys.exit(str(error))
