"""A search for small problems on which one strategy is worst against another.

Simulated annealing over tasks, their times, edges and what they carry, after PISA (Coleman and Krishnamachari 2024,
"PISA: An Adversarial Approach To Comparing Task Graph Scheduling Algorithms", https://doi.org/10.48550/arXiv.2403.07120).
A comparison on random graphs says how strategies do on the average; this says how badly one can do, and shows where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, isfinite
from random import Random

import msgspec

from trisect.partitioner.strategies import lookup, propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.benchmarks.problem_file import ProblemFile, ProblemFileEdge, ProblemFileTask, to_tables
from trisect.scheduler.problem.problem import Problem

from ..workloads.random_graphs import random_problem
from .statistics import ratio_to

_GRID = 2.0**30
_SHORTEST_S = 2.0**-20
_LONGEST_S = 2.0**-6
_LARGEST_BYTES = 2**24
_HEAT = 0.1
_LEAST_RATIO = 1e-6
_FEWEST_TASKS = 3
_MOST_TASKS = 200


@dataclass(frozen=True)
class Adversary:
    """The worst problem that was found."""

    strategy: str
    against: str
    ratio: float
    """Value of `strategy` over that of `against`, by simulation; infinite where `strategy` finds nothing there."""
    value: float | None
    against_value: float
    start_ratio: float
    """On the random problem that the best search began with."""
    seed: int
    iterations: int
    tried: int
    """Problems on which both were run."""
    tables: ProblemFile
    """The problem itself: `write_problem_file` makes a file of it, the workload ``problems`` reads that."""
    reason: str = ""
    """Why `strategy` has no value there."""


def find_adversary(
    strategy: str,
    against: str,
    *,
    seed: int = 0,
    iterations: int = 1000,
    restarts: int = 5,
    tasks: int = 8,
    devices: int = 3,
    rules: str = "tasks",
    time_limit_s: float = 1.0,
    progress: Progress = no_progress,
) -> Adversary:
    """Search for a problem that is hard for one strategy and easy for another.

    Parameters
    ----------
    strategy : str
        The one to embarrass.
    against : str
        The one to compare it with.
    seed : int
        The same seed finds the same problem, for strategies that are not limited by time.
    iterations : int
        Problems tried, over all restarts.
    restarts : int
        How many random problems a search is begun from.
    tasks : int
        Of the problems to begin with; changes add and remove some.
    devices : int
    rules : str
        ``tasks`` (each task by itself) or ``segments`` (cut and called as the runtime does).
    time_limit_s : float
        For strategies that search, for each problem.
    progress : callable, optional

    Raises
    ------
    UnknownStrategy
    InvalidInput
        For a strategy against itself, or sizes that make no sense.

    Examples
    --------
    >>> found = find_adversary("roundrobin", "heft", iterations=30, restarts=1)
    >>> found.ratio >= found.start_ratio > 0
    True
    """
    lookup(strategy), lookup(against)
    if strategy == against:
        raise InvalidInput(f"{strategy} against itself", remedy="name two strategies")
    if not (iterations >= 1 and 1 <= restarts <= iterations and 2 <= tasks <= _MOST_TASKS and 2 <= devices <= 16):
        raise InvalidInput(
            "no such search", remedy=f"iterations and restarts from 1, tasks 2 to {_MOST_TASKS}, devices 2 to 16"
        )
    if rules not in ("tasks", "segments"):
        raise InvalidInput(f"no rules {rules!r}", remedy="there are: tasks, segments")
    contest = _Contest(strategy, against, seed, time_limit_s)
    best: Adversary | None = None
    steps = iterations // restarts
    for restart in range(restarts):
        random = Random(f"{seed} {restart} {strategy} {against}")
        current = msgspec.structs.replace(random_problem(seed * restarts + restart, tasks, devices), convention=rules)
        found = contest.meet(current)
        begin = found.ratio
        for step in range(steps):
            if best is None or found.ratio > best.ratio:
                best = Adversary(
                    strategy,
                    against,
                    found.ratio,
                    found.value,
                    found.other,
                    begin,
                    seed,
                    iterations,
                    0,
                    current,
                    found.reason,
                )
            if step % 10 == 0:
                progress(restart * steps + step, iterations, f"{strategy} at {best.ratio:.3f} of {against}")
            if found.ratio == inf:
                break  # nothing is worse than no answer
            changed = _changed(current, random, 2 * tasks)
            new = contest.meet(changed)
            heat = _HEAT * (1 - step / steps) * max(found.ratio, _LEAST_RATIO)
            if new.ratio >= found.ratio or random.random() < exp((new.ratio - found.ratio) / heat):
                current, found = changed, new
    assert best is not None
    origin = (
        f"search of trisect for {strategy} against {against}, seed {seed}, {iterations} iterations: {best.ratio:.4g}"
    )
    return replace(best, tried=contest.tried, tables=msgspec.structs.replace(best.tables, origin=origin))


@dataclass(frozen=True)
class _Found:
    ratio: float
    value: float | None
    other: float
    reason: str = ""


class _Contest:
    """Two strategies side by side, and how many problems they have seen."""

    def __init__(self, strategy: str, against: str, seed: int, time_limit_s: float) -> None:
        self._names = strategy, against
        self._seed, self._time_limit_s = seed, time_limit_s
        self.tried = 0

    def meet(self, tables: ProblemFile) -> _Found:
        """How much worse the first is; 0 where the second finds nothing, so that its faults are not looked for."""
        self.tried += 1
        problem = Problem.from_tables(to_tables(tables, "problem"))
        value, reason = self._value(problem, self._names[0])
        other, _ = self._value(problem, self._names[1])
        if other is None:
            return _Found(0.0, value, inf)
        if value is None:
            return _Found(inf, None, other, reason)
        return _Found(ratio_to(other, value), value, other)

    def _value(self, problem: Problem, name: str) -> tuple[float | None, str]:
        try:
            evaluation = evaluate_proposal(
                problem, propose(problem, name, time_limit_s=self._time_limit_s, seed=self._seed)
            )
        except Exception as error:  # a strategy may fail in any way: that is what is looked for
            return None, f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if evaluation.violations or not isfinite(evaluation.value):
            return None, evaluation.violations[0].message if evaluation.violations else "its placement is worth nothing"
        return evaluation.value, ""


def _changed(tables: ProblemFile, random: Random, most_tasks: int) -> ProblemFile:
    """The same problem but for one thing; tasks stay in a topological order."""
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
    elif kind < 0.95 and len(tasks) < most_tasks:
        like = tasks[_below(random, len(tasks))]
        number = 1 + max(int(task.name[1:]) for task in tasks)
        tasks.append(_other_times(ProblemFileTask(f"t{number}", like.times_s), random))
        edges = _with_edge(tasks, edges, random, last=True)
    elif len(tasks) > _FEWEST_TASKS:
        gone = tasks.pop(_below(random, len(tasks))).name
        edges = [edge for edge in edges if gone not in (edge.source, edge.target)]
    return msgspec.structs.replace(tables, tasks=tuple(tasks), edges=tuple(edges))


def _other_times(task: ProblemFileTask, random: Random) -> ProblemFileTask:
    times = list(task.times_s)
    one = _below(random, len(times))
    factor = 0.25 + 3.75 * random.random() ** 2
    for i, time_s in enumerate(times):
        if time_s is not None and (i == one or random.random() < 0.2):
            times[i] = round(min(max(time_s * factor, _SHORTEST_S), _LONGEST_S) * _GRID) / _GRID
    return ProblemFileTask(task.name, tuple(times))


def _other_size(size_bytes: int, random: Random) -> int:
    if random.random() < 0.15:
        return 0
    return min(_LARGEST_BYTES, int((size_bytes + 4096) * (0.25 + 3.75 * random.random() ** 2)))


def _with_edge(
    tasks: Sequence[ProblemFileTask], edges: Sequence[ProblemFileEdge], random: Random, last: bool = False
) -> list[ProblemFileEdge]:
    """One edge more, where there is none yet; with `last` to the last task."""
    b = len(tasks) - 1 if last else 1 + _below(random, len(tasks) - 1)
    a = _below(random, b)
    source, target = tasks[a].name, tasks[b].name
    if any((edge.source, edge.target) == (source, target) for edge in edges):
        return list(edges)
    return [*edges, ProblemFileEdge(source, target, _other_size(2**20, random))]


def _below(random: Random, limit: int) -> int:
    return int(random.random() * limit)
