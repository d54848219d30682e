"""Search for small problems on which one strategy performs worst relative to another.

Simulated annealing over tasks, their times, edges and edge sizes, after PISA (Coleman and Krishnamachari 2024,
"PISA: An Adversarial Approach To Comparing Task Graph Scheduling Algorithms", https://doi.org/10.48550/arXiv.2403.07120).
A comparison on random graphs measures the average; this search finds bad cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, isfinite
from random import Random

import msgspec

from trisect.partitioner.strategies import lookup, propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.runtime.errors import InvalidInput, one_line
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.benchmarks.problem_file import ProblemFile, ProblemFileEdge, ProblemFileTask, to_tables
from trisect.scheduler.problem.problem import Problem

from ..workloads.random_graphs import random_problem
from .statistics import ratio_to

_GRID = 2.0**30
_TIME_MIN_S = 2.0**-20
_TIME_MAX_S = 2.0**-6
_SIZE_MAX_BYTES = 2**24
_INITIAL_TEMPERATURE = 0.1
_RATIO_MIN = 1e-6
_TASKS_MIN = 3
_TASKS_MAX = 200


@dataclass(frozen=True)
class Adversary:
    """The worst problem found."""

    strategy: str
    against: str
    ratio: float
    """Value of `strategy` over that of `against`, by simulation; infinite where `strategy` fails."""
    value: float | None
    against_value: float
    start_ratio: float
    """On the random problem that the best restart began with."""
    seed: int
    iterations: int
    tried: int
    """Number of problems on which both ran."""
    tables: ProblemFile
    """The problem: `write_problem_file` writes it, and the workload ``problems`` reads it."""
    reason: str = ""
    """Why `strategy` has no value."""


@dataclass(frozen=True)
class AdversarySearch:
    """Settings of a search."""

    strategy: str
    """The strategy to challenge."""
    against: str
    """The strategy to compare it with."""
    seed: int = 0
    """Random seed; a search with strategies that have no time limit is reproducible."""
    iterations: int = 1000
    """Problems tried, over all restarts."""
    restarts: int = 5
    """Number of random problems to start from."""
    tasks: int = 8
    """Of the start problems; mutations add and remove tasks."""
    devices: int = 3
    rules: str = "tasks"
    """``tasks`` (each task on its own) or ``segments`` (cut and called as by the runtime)."""
    time_limit_s: float = 1.0
    """For strategies that search, for each problem."""

    def check(self) -> None:
        """Raise UnknownStrategy or InvalidInput for settings that are not valid."""
        lookup(self.strategy), lookup(self.against)
        if self.strategy == self.against:
            raise InvalidInput(f"{self.strategy} is compared with itself", remedy="give two different strategies")
        if not (1 <= self.restarts <= self.iterations and 2 <= self.tasks <= _TASKS_MAX and 2 <= self.devices <= 16):
            raise InvalidInput(
                "invalid size of the search",
                remedy=f"give 1 restart or more, at least as many iterations, 2 to {_TASKS_MAX} tasks, 2 to 16 devices",
            )
        if self.rules not in ("tasks", "segments"):
            raise InvalidInput(f"no rules {self.rules!r}", remedy="give tasks or segments")


def find_adversary(search: AdversarySearch, progress: Progress = no_progress) -> Adversary:
    """Search for a problem that is hard for one strategy and easy for another.

    Raises
    ------
    UnknownStrategy
    InvalidInput
        For a strategy against itself, or sizes out of range.

    Examples
    --------
    >>> adversary = find_adversary(AdversarySearch("roundrobin", "heft", iterations=30, restarts=1))
    >>> adversary.ratio >= adversary.start_ratio > 0
    True
    """
    search.check()
    strategy, against, seed, iterations = search.strategy, search.against, search.seed, search.iterations
    pair = _StrategyPair(search)
    best: Adversary | None = None
    steps = iterations // search.restarts
    for restart in range(search.restarts):
        random = Random(f"{seed} {restart} {strategy} {against}")
        start = random_problem(seed * search.restarts + restart, search.tasks, search.devices)
        current = msgspec.structs.replace(start, convention=search.rules)
        values = pair.evaluate(current)
        start_ratio = values.ratio
        for step in range(steps):
            if best is None or values.ratio > best.ratio:
                best = Adversary(
                    strategy, against, values.ratio, values.value, values.against_value, start_ratio, seed, iterations,
                    0, current, values.reason,
                )  # fmt: skip
            if step % 10 == 0:
                progress(restart * steps + step, iterations, f"{strategy} at {best.ratio:.3f} of {against}")
            if values.ratio == inf:
                break  # nothing is worse than a failure
            mutated = _mutated(current, random, 2 * search.tasks)
            new = pair.evaluate(mutated)
            temperature = _INITIAL_TEMPERATURE * (1 - step / steps) * max(values.ratio, _RATIO_MIN)
            if new.ratio >= values.ratio or random.random() < exp((new.ratio - values.ratio) / temperature):
                current, values = mutated, new
    assert best is not None
    origin = (
        f"search of trisect for {strategy} against {against}, seed {seed}, {iterations} iterations: {best.ratio:.4g}"
    )
    return replace(best, tried=pair.tried, tables=msgspec.structs.replace(best.tables, origin=origin))


@dataclass(frozen=True)
class _PairValues:
    ratio: float
    value: float | None
    against_value: float
    reason: str = ""


class _StrategyPair:
    """Evaluates two strategies on problems, and counts these."""

    def __init__(self, search: AdversarySearch) -> None:
        self._search = search
        self.tried = 0

    def evaluate(self, tables: ProblemFile) -> _PairValues:
        """Return the ratio of both values; 0 where the second fails, so that its faults are not searched for."""
        self.tried += 1
        problem = Problem.from_tables(to_tables(tables, "problem"))
        value, reason = self._value(problem, self._search.strategy)
        against_value, _ = self._value(problem, self._search.against)
        if against_value is None:
            return _PairValues(0.0, value, inf)
        if value is None:
            return _PairValues(inf, None, against_value, reason)
        return _PairValues(ratio_to(against_value, value), value, against_value)

    def _value(self, problem: Problem, name: str) -> tuple[float | None, str]:
        try:
            evaluation = evaluate_proposal(
                problem, propose(problem, name, time_limit_s=self._search.time_limit_s, seed=self._search.seed)
            )
        except Exception as error:  # a strategy may fail in any way, which is reported
            return None, f"raised {one_line(error, 200)}"
        if evaluation.violations or not isfinite(evaluation.value):
            return None, evaluation.violations[
                0
            ].message if evaluation.violations else "its placement has no finite value"
        return evaluation.value, ""


def _mutated(tables: ProblemFile, random: Random, tasks_max: int) -> ProblemFile:
    """Return the problem with one random change; tasks stay in topological order."""
    tasks, edges = list(tables.tasks), list(tables.edges)
    kind = random.random()
    if kind < 0.45:
        i = _below(random, len(tasks))
        tasks[i] = _other_times(tasks[i], random)
    elif kind < 0.7 and edges:
        i = _below(random, len(edges))
        edges[i] = ProblemFileEdge(edges[i].source, edges[i].target, _other_size(edges[i].size_bytes, random))
    elif kind < 0.8:
        edges = _with_edge(tasks, edges, random)
    elif kind < 0.9 and edges:
        edges.pop(_below(random, len(edges)))
    elif kind < 0.95 and len(tasks) < tasks_max:
        template = tasks[_below(random, len(tasks))]
        number = 1 + max(int(task.name[1:]) for task in tasks)
        tasks.append(_other_times(ProblemFileTask(f"t{number}", template.times_s), random))
        edges = _with_edge(tasks, edges, random, last=True)
    elif len(tasks) > _TASKS_MIN:
        removed = tasks.pop(_below(random, len(tasks))).name
        edges = [edge for edge in edges if removed not in (edge.source, edge.target)]
    return msgspec.structs.replace(tables, tasks=tuple(tasks), edges=tuple(edges))


def _other_times(task: ProblemFileTask, random: Random) -> ProblemFileTask:
    times = list(task.times_s)
    one = _below(random, len(times))
    factor = 0.25 + 3.75 * random.random() ** 2
    for i, time_s in enumerate(times):
        if time_s is not None and (i == one or random.random() < 0.2):
            times[i] = round(min(max(time_s * factor, _TIME_MIN_S), _TIME_MAX_S) * _GRID) / _GRID
    return ProblemFileTask(task.name, tuple(times))


def _other_size(size_bytes: int, random: Random) -> int:
    if random.random() < 0.15:
        return 0
    return min(_SIZE_MAX_BYTES, int((size_bytes + 4096) * (0.25 + 3.75 * random.random() ** 2)))


def _with_edge(
    tasks: Sequence[ProblemFileTask], edges: Sequence[ProblemFileEdge], random: Random, last: bool = False
) -> list[ProblemFileEdge]:
    """Return the edges with a random new one, or unchanged if it exists; with `last`, it leads to the last task."""
    b = len(tasks) - 1 if last else 1 + _below(random, len(tasks) - 1)
    a = _below(random, b)
    source, target = tasks[a].name, tasks[b].name
    if any((edge.source, edge.target) == (source, target) for edge in edges):
        return list(edges)
    return [*edges, ProblemFileEdge(source, target, _other_size(2**20, random))]


def _below(random: Random, limit: int) -> int:
    return int(random.random() * limit)
