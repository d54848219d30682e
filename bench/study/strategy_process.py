"""A process that runs a study's strategies, so that one that never ends or dies takes nothing with it.

Driven over standard input and output, one JSON document a line:

    {"functions": {"mine": "..."}, "workloads": {}, "path": [...], "seeds": [0], ...}   ->  {"refused": {}}
    {"workload": "stg", "instance": "a", "known_bound": 0, "runs": [...]}  ->  {"size": {...}}, {"outcome": {...}}, ...

A user's own functions come pickled by value, from the process that started this one and from nowhere else.
"""

from __future__ import annotations

import base64
import gc
import importlib
import os
import pickle
import sys
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import msgspec
import networkx as nx

from trisect.partitioner import strategies
from trisect.partitioner.strategies.common.placement_value import simple_bound
from trisect.runtime.errors import one_line
from trisect.scheduler.problem.rules import Objective

from .. import workloads
from ..workloads import Instance
from .assessment import Prepared, assess, size_of
from .study_rows import Outcome, Size
from .study_spec import Job


@dataclass(frozen=True)
class Setup:
    """What a process must know before its first job."""

    seeds: tuple[int, ...]
    objective: Objective | None
    time_limit_s: float
    path: tuple[str, ...] = ()
    """Where the user's process looks for modules."""
    functions: dict[str, str] | None = None
    """Strategies that only the user's process knows: name -> pickled, in base 64."""
    workloads: dict[str, str] | None = None
    """Likewise workloads."""


class Bench:
    """Problems made when they are first needed; of each workload its instances once."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._instances: dict[str, dict[str, Instance]] = {}

    def prepare(self, job: Job) -> Prepared:
        """The problem of a job; raises whatever its workload raises."""
        if job.workload not in self._instances:
            (choice,) = workloads.choices(job.workload)
            found = workloads.instances(choice, self._setup.seeds, self._setup.objective)
            self._instances[job.workload] = {instance.name: instance for instance in found}
        problem = self._instances[job.workload][job.instance].make()
        # A strategy that changes its problem must not change that of the next.
        nx.freeze(problem.graph)
        return Prepared(problem, max(simple_bound(problem), job.known_bound))

    def try_to_prepare(self, job: Job) -> Prepared | str:
        """The problem of a job, or in one line why there is none."""
        try:
            return self.prepare(job)
        except Exception as error:  # a file may be damaged in any way, a user's generator fail in any
            return one_line(error, 300, with_kind=False)


def main() -> None:
    """Serve until standard input ends."""
    # Strategies may print, from C too; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True).start()

    def say(document: Any) -> None:
        answers.write(msgspec.json.encode(document) + b"\n")
        answers.flush()

    setup = msgspec.json.decode(lines.get(), type=Setup)
    # Problems are many small objects that live until the next: looking for cycles among them takes half of the time.
    gc.set_threshold(100_000, 50, 1000)
    say({"refused": _take_in(setup)})
    bench = Bench(setup)
    while True:
        job = msgspec.json.decode(lines.get(), type=Job)
        prepared = bench.try_to_prepare(job)
        if isinstance(prepared, str):
            say({"error": prepared})
            continue
        say({"size": asdict(size_of(prepared.problem))})
        for run in job.runs:
            say({"outcome": assess(prepared, run, setup.time_limit_s)})


def _listen(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    # Whoever asked has gone: nobody waits for what a strategy is still doing.
    os._exit(0)


def _take_in(setup: Setup) -> dict[str, str]:
    """Register what only the user's process knows; name -> why it cannot be."""
    sys.path[:] = [*setup.path, *(place for place in sys.path if place not in setup.path)]
    importlib.invalidate_caches()
    refused = {}
    for kind in (setup.functions, setup.workloads):
        for name, text in (kind or {}).items():
            try:
                found = pickle.loads(base64.b64decode(text))
            except Exception as error:  # a module that is not there, an object that does not unpickle
                refused[name] = f"{type(error).__name__}: {error}"
                continue
            if isinstance(found, workloads.Workload):
                workloads.add(found)
            else:
                strategies.strategy(name)(found)
    return refused


Answer = dict[str, Any]


def read_answer(answer: Answer) -> Size | Outcome | str:
    """What a line says: the size of the problem, an outcome, or why there is no problem."""
    if "size" in answer:
        return msgspec.convert(answer["size"], type=Size)
    if "outcome" in answer:
        return msgspec.convert(answer["outcome"], type=Outcome)
    return str(answer["error"])


if __name__ == "__main__":
    main()
