"""Runs jobs in several processes; a run that exceeds its time limit costs its process, and another takes over."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import one_line

from ..time_limit import TimeLimitExceeded, time_limit
from .assessment import assess, size_of
from .strategy_process import ProblemCache, StrategyProcess, StudySetup
from .study_rows import ProblemSize, RunOutcome
from .study_spec import StudyJob, StudyRun

log = logging.getLogger(__name__)

FinishedRun = tuple[StudyJob, StudyRun, ProblemSize, RunOutcome]
OnRun = Callable[[StudyJob, StudyRun, ProblemSize, RunOutcome], None]
"""Called with every run as it ends, in the thread that started the study."""

NO_SIZE = ProblemSize(0, 0, 0, "", "")


def run_jobs(
    jobs: Iterable[StudyJob], setup: StudySetup, run_limit_s: float, processes: int, on_run: OnRun
) -> dict[str, str]:
    """Run jobs in child processes.

    Returns
    -------
    dict of str to str
        Names of strategies and workloads that could not be sent to a process, and why; their runs are not done.
    """
    pending: SimpleQueue[StudyJob] = SimpleQueue()
    count = 0
    for job in jobs:
        pending.put(job)
        count += 1
    results: SimpleQueue[FinishedRun | BaseException | None] = SimpleQueue()
    pool = _JobPool(pending, setup, run_limit_s, results.put)

    def work() -> None:
        try:
            pool.work()
        except BaseException as error:
            results.put(error)
        results.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(processes, count))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            result = results.get()
            if result is None:
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                on_run(*result)
    finally:
        pool.stop()
    return pool.refused


class _JobPool:
    """Threads that each give jobs to a process of their own."""

    def __init__(
        self,
        pending: SimpleQueue[StudyJob],
        setup: StudySetup,
        run_limit_s: float,
        put: Callable[[FinishedRun], None],
    ) -> None:
        self.refused: dict[str, str] = {}
        self._pending, self._setup, self._run_limit_s, self._put = pending, setup, run_limit_s, put
        self._processes: set[StrategyProcess] = set()
        self._stopping = threading.Event()

    def work(self) -> None:
        """Run pending jobs until there are none: the main function of a thread."""
        process: StrategyProcess | None = None
        try:
            while not self._stopping.is_set():
                try:
                    job = self._pending.get_nowait()
                except Empty:
                    return
                process = process or self._start()
                if job.workload.partition("?")[0].partition(":")[0] in process.refused:
                    continue
                refused = process.refused
                job = replace(job, runs=tuple(r for r in job.runs if r.strategy.partition(":")[0] not in refused))
                while job.runs and not self._stopping.is_set():
                    process = process or self._start()
                    job = replace(job, runs=self._run(process, job))
                    if process.has_ended:
                        self._close(process)
                        process = None
        finally:
            if process is not None:
                self._close(process)

    def stop(self) -> None:
        """End all processes; the threads end with them."""
        self._stopping.set()
        for process in list(self._processes):
            process.close()

    def _start(self) -> StrategyProcess:
        process = StrategyProcess(self._setup)
        self._processes.add(process)
        self.refused.update(process.refused)
        return process

    def _close(self, process: StrategyProcess) -> None:
        self._processes.discard(process)
        process.close()

    def _run(self, process: StrategyProcess, job: StudyJob) -> tuple[StudyRun, ...]:
        """Run all of a job; returns the runs that are left after a failure."""
        try:
            size = process.start_job(job)
        except ChildProcessFailed as error:
            for run in job.runs:
                self._put((job, run, NO_SIZE, RunOutcome("no problem", reason=error.reason)))
            return ()
        for number, run in enumerate(job.runs):
            limit_s = _limit_s(run, self._run_limit_s)
            try:
                outcome = process.next_outcome(limit_s)
            except ChildProcessFailed as error:
                self._put(
                    (job, run, size, _late(limit_s) if error.timed_out else RunOutcome("failed", reason=error.reason))
                )
                return job.runs[number + 1 :]
            self._put((job, run, size, outcome))
        return ()


def run_in_this_process(jobs: Iterable[StudyJob], setup: StudySetup, run_limit_s: float, on_run: OnRun) -> None:
    """Run the jobs of functions that cannot be sent to another process."""
    problems = ProblemCache(setup)
    for job in jobs:
        try:
            problem = problems.problem_of(job)
        except Exception as error:  # a damaged file, a user's generator that fails: reported in the rows
            reason = one_line(error, 300, with_kind=False)
            for run in job.runs:
                on_run(job, run, NO_SIZE, RunOutcome("no problem", reason=reason))
            continue
        for run in job.runs:
            limit_s = _limit_s(run, run_limit_s)
            try:
                with time_limit(limit_s):
                    outcome = assess(problem, run, setup.time_limit_s)
            except TimeLimitExceeded:
                outcome = _late(limit_s)
            on_run(job, run, size_of(problem.problem), outcome)


def _limit_s(run: StudyRun, run_limit_s: float) -> float:
    """A run that is repeated may take twice as long."""
    return run_limit_s * (1 + run.twice)


def _late(limit_s: float) -> RunOutcome:
    return RunOutcome("failed", plan_time_s=limit_s, reason=f"not finished within {limit_s:g} s: stopped")


def pickled(value: Any) -> str | None:
    """Return a user's function pickled by value, in base 64; None where it cannot be pickled."""
    import cloudpickle

    try:
        return base64.b64encode(cloudpickle.dumps(value)).decode()
    except Exception as error:  # it refers to a lock, a file, a generator ...: it then runs in this process
        log.debug("%r cannot be pickled: %s", value, error)
        return None
