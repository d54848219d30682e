"""Starting points and the search that `local-search`, `annealing`, `exact` and `auto` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, inf
from random import Random
from time import monotonic

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.lists import assign, task_lists, upward_ranks
from trisect.scheduler.offload.annealing import anneal
from trisect.scheduler.offload.calls import anneal_calls
from trisect.scheduler.offload.chain import best_intervals, depth_first_order
from trisect.scheduler.offload.instance import make_instance
from trisect.scheduler.offload.search import fill, latency_starts
from trisect.scheduler.problem import Problem
from trisect.scheduler.solution import Proposal

from . import propose
from .judging import judge, simple_bound

_STARTS = ("single", "heft", "peft", "dp-chain")


def quick_start(problem: Problem, names: tuple[str, ...] = _STARTS) -> Proposal:
    """The best of some strategies that take no time; of equals the first."""
    best, best_value = None, inf
    for name in names:
        try:
            found = propose(problem, name)
        except InfeasibleProblem:
            continue
        value = judge(problem, found).value
        if value < best_value:
            best, best_value = found, value
    if best is None:
        if problem.rules.convention == "offload":
            instance = make_instance(problem)
            where = fill(instance)
            if where is not None and problem.objective == "throughput" and not problem.rules.contiguous:
                return Proposal(instance.spread(where))
        raise InfeasibleProblem("no strategy finds a placement", remedy="loosen the constraints")
    return best


def improve(
    problem: Problem, start: Proposal, time_limit_s: float, seed: int, *, heat: float, steps: float = inf
) -> Proposal:
    """Change a proposal while that makes it better.

    Parameters
    ----------
    problem : Problem
    start : Proposal
    time_limit_s : float
    seed : int
    heat : float
        How much worse a change may be at the start, as a part of the value; 0 only goes downhill.
    steps : float
        At most so many changes: with a limit that is reached before the time is, the same seed gives the same answer.
    """
    deadline = monotonic() + time_limit_s
    if problem.rules.convention == "offload":
        return _improve_offload(problem, start, deadline, Random(seed), heat)
    if problem.rules.convention == "tasks":
        return _improve_order(problem, start, deadline, Random(seed), steps)
    return _improve_segments(problem, start, deadline, Random(seed), heat, steps)


def _improve_offload(problem: Problem, start: Proposal, deadline: float, random: Random, heat: float) -> Proposal:
    instance = make_instance(problem)
    where = instance.gather(start.placement)
    if problem.objective == "latency":
        starts = [*latency_starts(instance), (inf, where)]
        _, where = anneal_calls(instance, min(starts)[1], random, deadline, heat=heat or 1e-9)
    elif problem.rules.contiguous:
        value = judge(problem, start).value
        while monotonic() < deadline:
            found = best_intervals(instance, depth_first_order(instance, random), value)
            if found is not None:
                value, where = found
    else:
        _, where = anneal(instance, where, random, deadline, heat=10 * heat or 1e-9)
    better = Proposal(instance.spread(where))
    return better if judge(problem, better).value < judge(problem, start).value else start


def _improve_order(problem: Problem, start: Proposal, deadline: float, random: Random, steps: float) -> Proposal:
    """Shake the ranks that list scheduling goes by, and keep what is no worse."""
    lists = task_lists(problem)
    ranks = upward_ranks(lists)
    best, best_value = start, judge(problem, start).value
    bound = simple_bound(problem)
    current, spread, step = list(ranks), max(ranks, default=0.0), 0
    while monotonic() < deadline and step < steps and best_value > bound * (1 + 1e-9):
        step += 1
        width = spread * random.choice((0.02, 0.05, 0.1, 0.3))
        shaken = [r + random.uniform(-width, width) if random.random() < 0.2 else r for r in current]
        found = assign(lists, _topological(lists.succs, [len(p) for p in lists.preds], shaken))
        if found.makespan <= best_value:
            current = shaken
            if found.makespan < best_value:
                best_value = found.makespan
                starts_s = dict(zip(lists.tasks, found.start, strict=True))
                best = Proposal(lists.placement(found.where), starts_s=starts_s)
    return best


def _topological(succs: list[list[tuple[int, float]]], waiting: list[int], keys: list[float]) -> list[int]:
    from heapq import heapify, heappop, heappush

    ready = [(-keys[i], i) for i, count in enumerate(waiting) if not count]
    heapify(ready)
    order = []
    while ready:
        _, i = heappop(ready)
        order.append(i)
        for j, _ in succs[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heappush(ready, (-keys[j], j))
    return order


def _improve_segments(
    problem: Problem, start: Proposal, deadline: float, random: Random, heat: float, steps: float
) -> Proposal:
    """Move a task, or all of a neighbourhood on one device, judged by the whole schedule."""
    tasks = list(problem.graph)
    value_of: Callable[[dict[str, str]], float] = lambda placement: judge(problem, Proposal(placement)).value  # noqa: E731
    current = dict(start.placement)
    value = best_value = value_of(current)
    best, step, begin = dict(current), 0, monotonic()
    if not tasks or len(problem.devices) < 2:
        return start
    while monotonic() < deadline and step < steps:
        step += 1
        task = random.choice(tasks)
        near = [*problem.graph.predecessors(task), *problem.graph.successors(task)]
        wanted = random.choice([*problem.device_ids, *(current[n] for n in near)])
        moved = [task, *(n for n in near if current[n] == current[task])] if random.random() < 0.3 else [task]
        changed = {t: wanted for t in moved if wanted in problem.allowed(t) and current[t] != wanted}
        if not changed:
            continue
        found = value_of({**current, **changed})
        left = (1 - step / steps) if steps < inf else 1 - (monotonic() - begin) / max(deadline - begin, 1e-9)
        limit = heat * best_value * max(left, 0.0) ** 2
        if found <= value or (limit > 0 and random.random() < exp((value - found) / limit)):
            current, value = {**current, **changed}, found
            if value < best_value:
                best, best_value = dict(current), value
    return replace(start, placement=best)
