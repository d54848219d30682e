"""Jobs spread over processes, each run with a time after which its process is ended and another goes on."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import msgspec

from trisect.runtime.errors import EngineFailed

from .assessment import assess, size_of
from .strategy_process import Bench, Setup, read_answer
from .study_rows import Outcome, Size
from .study_spec import Job, Run

Keep = Callable[[Job, Run, Size, Outcome], None]
"""Told of every run as it ends, in the thread that started the study."""

NOTHING = Size(0, 0, 0, "", "")
_PREPARING_S = 300.0
"""A large model may take long to read."""
_STARTING_S = 120.0


class Worker:
    """A process that serves runs."""

    def __init__(self, setup: Setup) -> None:
        # Not a pipe: one that nobody reads would fill up.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "trisect.bench.study.strategy_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            # Sets of texts are walked in an order that this fixes: a strategy that does so gives the same everywhere.
            env=os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            # Ctrl-C is for the process that keeps the results.
            start_new_session=True,
        )
        self.was_stopped = False
        try:
            self.refused: dict[str, str] = self.ask(setup, _STARTING_S)["refused"]
        except EngineFailed as error:
            self._complaints.seek(0)
            last = (self._complaints.read()[-1000:].decode(errors="replace").strip().splitlines() or [""])[-1]
            self.close()
            raise EngineFailed(f"a process of the study did not start: {error}: {last}") from None

    def ask(self, question: Any, limit_s: float) -> dict[str, Any]:
        """Send a document and wait for the first answer."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise EngineFailed(self._end()) from None
        return self.answer(limit_s)

    def answer(self, limit_s: float) -> dict[str, Any]:
        """The next answer.

        Raises
        ------
        EngineFailed
            When the process has ended, or was ended because none came in time; says which.
        """
        timer = threading.Timer(limit_s, self._stop)
        timer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise EngineFailed(f"never ended: stopped after {limit_s:g} s" if self.was_stopped else self._end())
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            if stream is not None:
                stream.close()

    def _stop(self) -> None:
        self.was_stopped = True
        self._process.kill()

    def _end(self) -> str:
        code = self._process.wait()
        return f"ended its process (signal {-code})" if code < 0 else f"ended its process (exit code {code})"


def run_jobs(jobs: Iterable[Job], setup: Setup, longest_run_s: float, processes: int, keep: Keep) -> dict[str, str]:
    """Run jobs in processes of their own.

    Returns
    -------
    dict of str to str
        Names of strategies and workloads that could not be sent to a process, and why; their runs are not done.
    """
    pending: SimpleQueue[Job] = SimpleQueue()
    count = 0
    for job in jobs:
        pending.put(job)
        count += 1
    done: SimpleQueue[tuple[Job, Run, Size, Outcome] | BaseException | None] = SimpleQueue()
    refused: dict[str, str] = {}
    workers: set[Worker] = set()
    stopping = threading.Event()

    def serve() -> None:
        try:
            _serve(pending, setup, longest_run_s, workers, stopping, refused, done.put)
        except BaseException as error:
            done.put(error)
        done.put(None)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(processes, count))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            found = done.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                keep(*found)
    finally:
        stopping.set()
        for worker in list(workers):
            worker.close()
    return refused


def _serve(
    pending: SimpleQueue[Job],
    setup: Setup,
    longest_run_s: float,
    workers: set[Worker],
    stopping: threading.Event,
    refused: dict[str, str],
    put: Callable[[tuple[Job, Run, Size, Outcome]], None],
) -> None:
    worker: Worker | None = None

    def started() -> Worker:
        new = Worker(setup)
        workers.add(new)
        refused.update(new.refused)
        return new

    try:
        while not stopping.is_set():
            try:
                job = pending.get_nowait()
            except Empty:
                return
            worker = worker or started()
            if job.workload.partition("?")[0].partition(":")[0] in worker.refused:
                continue
            job = replace(job, runs=tuple(r for r in job.runs if r.strategy.partition(":")[0] not in worker.refused))
            while job.runs and not stopping.is_set():
                worker = worker or started()
                left, is_alive = _run_job(worker, job, longest_run_s, put)
                if not is_alive:
                    workers.discard(worker)
                    worker.close()
                    worker = None
                job = replace(job, runs=left)
    finally:
        if worker is not None:
            workers.discard(worker)
            worker.close()


def _run_job(
    worker: Worker, job: Job, longest_run_s: float, put: Callable[[tuple[Job, Run, Size, Outcome]], None]
) -> tuple[tuple[Run, ...], bool]:
    """Run all of a job; gives the runs that are left where the process has died, and whether it lives."""
    is_alive = True
    try:
        size = read_answer(worker.ask(job, _PREPARING_S))
    except EngineFailed as error:
        size, is_alive = str(error), False
    if not isinstance(size, Size):
        for run in job.runs:
            put((job, run, NOTHING, Outcome("no problem", reason=str(size))))
        return (), is_alive
    for number, run in enumerate(job.runs):
        # A run that is repeated may take twice as long.
        limit_s = longest_run_s * (1 + run.twice)
        try:
            outcome = read_answer(worker.answer(limit_s))
        except EngineFailed as error:
            outcome = Outcome("failed", plan_time_s=limit_s if worker.was_stopped else 0.0, reason=str(error))
            is_alive = False
        assert isinstance(outcome, Outcome)
        put((job, run, size, outcome))
        if not is_alive:
            return job.runs[number + 1 :], False
    return (), True


def run_here(jobs: Iterable[Job], setup: Setup, longest_run_s: float, keep: Keep) -> None:
    """Run jobs in this process: those of functions that cannot be sent to another."""
    bench = Bench(setup)
    for job in jobs:
        prepared = bench.try_to_prepare(job)
        for run in job.runs:
            if isinstance(prepared, str):
                keep(job, run, NOTHING, Outcome("no problem", reason=prepared))
                continue
            limit_s = longest_run_s * (1 + run.twice)
            try:
                with _time_limit(limit_s):
                    outcome = assess(prepared, run, setup.time_limit_s)
            except _TooLong:
                outcome = Outcome("failed", plan_time_s=limit_s, reason=f"never ended: stopped after {limit_s:g} s")
            keep(job, run, size_of(prepared.problem), outcome)


class _TooLong(BaseException):
    """Not an `Exception`, so that a strategy that catches these does not catch it."""


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Interrupt what runs too long; only the main thread of a POSIX process can be."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pickled(thing: Any) -> str | None:
    """A user's function by value, in base 64; None where it cannot be sent."""
    import cloudpickle

    try:
        return base64.b64encode(cloudpickle.dumps(thing)).decode()
    except Exception:  # whatever it holds on to: a lock, a file, a generator
        return None
