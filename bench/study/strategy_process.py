"""A child process that runs a study's strategies, so that one that never ends or crashes affects nothing else.

    a StudySetup  ->  {"mine": "why it cannot be loaded", ...}
    a StudyJob    ->  a ProblemSize, and then a RunOutcome for each of its runs

A user's own functions come pickled by value, from the process that started this one and from nowhere else.
"""

from __future__ import annotations

import base64
import gc
import importlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import networkx as nx

from trisect.partitioner import strategies
from trisect.partitioner.strategies.common.placement_value import simple_bound
from trisect.runtime.child_process import ChildProcess
from trisect.runtime.errors import EngineFailed
from trisect.scheduler.problem.rules import Objective

from .. import workloads
from ..workloads import WorkloadInstance
from .assessment import BoundedProblem, assess, size_of
from .study_rows import ProblemSize, RunOutcome
from .study_spec import StudyJob

_START_LIMIT_S = 120.0
_PREPARE_LIMIT_S = 300.0
"""Reading a large model takes long."""


@dataclass(frozen=True)
class StudySetup:
    """What a process needs before its first job."""

    seeds: tuple[int, ...]
    objective: Objective | None
    time_limit_s: float
    path: tuple[str, ...] = ()
    """``sys.path`` of the user's process."""
    strategies: dict[str, str] | None = None
    """Strategies that only the user's process knows: name -> pickled, in base 64."""
    workloads: dict[str, str] | None = None
    """Likewise workloads."""


class ProblemCache:
    """Builds the problems of jobs; the instances of each workload are listed once."""

    def __init__(self, setup: StudySetup) -> None:
        self._setup = setup
        self._instances: dict[str, dict[str, WorkloadInstance]] = {}

    def problem_of(self, job: StudyJob) -> BoundedProblem:
        """Build the problem of a job; raises whatever its workload raises."""
        if job.workload not in self._instances:
            (choice,) = workloads.choices(job.workload)
            instances = workloads.instances(choice, self._setup.seeds, self._setup.objective)
            self._instances[job.workload] = {instance.name: instance for instance in instances}
        problem = self._instances[job.workload][job.instance].make()
        # A strategy that changes its problem must not change that of the next.
        nx.freeze(problem.graph)
        return BoundedProblem(problem, max(simple_bound(problem), job.known_bound))


class StrategyProcess(ChildProcess):
    """A process that runs jobs; a context manager.

    Raises
    ------
    EngineFailed
        When it does not start.
    """

    def __init__(self, setup: StudySetup) -> None:
        # A fixed hash seed fixes the order of sets of strings, and with it what a strategy that iterates them returns.
        super().__init__(StrategyHandler, "a process of the study", {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"})
        try:
            self.refused: dict[str, str] = self.request(setup, time_limit_s=_START_LIMIT_S)
        except EngineFailed:
            self.close()
            raise

    def start_job(self, job: StudyJob) -> ProblemSize:
        """Build the problem of a job and begin its runs."""
        return msgspec.convert(self.request(job, time_limit_s=_PREPARE_LIMIT_S), ProblemSize)

    def next_outcome(self, limit_s: float) -> RunOutcome:
        """Wait for the job's next run to end."""
        return msgspec.convert(self.next_reply(time_limit_s=limit_s), RunOutcome)


class StrategyHandler:
    """Runs jobs in the child process; the first request is the setup."""

    def __init__(self) -> None:
        self._setup: StudySetup | None = None

    def __call__(self, request: dict[str, Any]) -> dict[str, str] | Iterator[ProblemSize | RunOutcome]:
        """Answer one request."""
        if self._setup is None:
            # Problems are many small objects that live until the next: collecting cycles often takes half of the time.
            gc.set_threshold(100_000, 50, 1000)
            self._setup = msgspec.convert(request, StudySetup)
            self._problems = ProblemCache(self._setup)
            return _register(self._setup)
        return self._run(msgspec.convert(request, StudyJob), self._setup.time_limit_s)

    def _run(self, job: StudyJob, time_limit_s: float) -> Iterator[ProblemSize | RunOutcome]:
        problem = self._problems.problem_of(job)
        yield size_of(problem.problem)
        for run in job.runs:
            yield assess(problem, run, time_limit_s)


def _register(setup: StudySetup) -> dict[str, str]:
    """Register what only the user's process knows; returns name -> why it cannot be loaded."""
    sys.path[:] = [*setup.path, *(entry for entry in sys.path if entry not in setup.path)]
    importlib.invalidate_caches()
    refused = {}
    for pickled in (setup.strategies, setup.workloads):
        for name, text in (pickled or {}).items():
            try:
                loaded = pickle.loads(base64.b64decode(text))
            except Exception as error:  # a missing module, an object that does not unpickle: reported
                refused[name] = f"{type(error).__name__}: {error}"
                continue
            if isinstance(loaded, workloads.Workload):
                workloads.add(loaded)
            else:
                strategies.strategy(name)(loaded)
    return refused
