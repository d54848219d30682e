"""Starting points and the search that `local-search`, `annealing`, `exact` and `auto` share.

A model's problem is searched for a number of changes that follows from the time limit, not for the time itself: the
same seed then gives the same plan on a slow and on a quick machine. The clock only stops what is far behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, inf
from random import Random
from time import monotonic

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.offload.call_latency import anneal_calls
from trisect.scheduler.offload.load_annealing import anneal
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.pipeline_chain import MOST_ORDERS, best_intervals, depth_first_order
from trisect.scheduler.offload.portfolio import fill, latency_starts
from trisect.scheduler.offload.search_budget import Budget, call_steps, load_steps
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import assign, task_lists, upward_ranks

from .. import propose
from .placement_value import judge, simple_bound

_STARTS = ("single", "heft", "peft", "dp-chain")
_CHANGES_PER_S = 10_000
"""Changes tried a second on a graph of one task, a fifth of what one core of 2020 manages; a graph of a hundred tasks
gets a hundredth, each costing a hundred times as much."""


def changes_for(problem: Problem, time_limit_s: float) -> int:
    """How many placements a search may judge, so that it ends well within a time limit."""
    return max(1, int(time_limit_s * _CHANGES_PER_S / max(1, len(problem.graph))))


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
    problem: Problem, start: Proposal, time_limit_s: float, seed: int, *, heat: float, steps: int | None = None
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
    steps : int, optional
        At most so many changes of a model's problem; as many as are for the time limit when left out.
    """
    deadline = monotonic() + time_limit_s
    if problem.rules.convention == "offload":
        return _improve_offload(problem, start, Budget(time_limit_s), Random(seed), heat)
    if problem.rules.convention == "tasks":
        return _improve_order(problem, start, deadline, Random(seed))
    changes = changes_for(problem, time_limit_s) if steps is None else steps
    return _improve_segments(problem, start, deadline, Random(seed), heat, changes)


def _improve_offload(problem: Problem, start: Proposal, budget: Budget, random: Random, heat: float) -> Proposal:
    instance = make_instance(problem)
    where = instance.gather(start.placement)
    if problem.objective == "latency":
        starts = [*latency_starts(instance), (inf, where)]
        steps = call_steps(instance, budget.seconds)
        _, where = anneal_calls(instance, min(starts)[1], random, budget, steps, heat=heat or 1e-9)
    elif problem.rules.contiguous:
        value = judge(problem, start).value
        for _ in range(MOST_ORDERS):
            if budget.is_spent():
                break
            found = best_intervals(instance, depth_first_order(instance, random), value)
            if found is not None:
                value, where = found
    else:
        steps = load_steps(instance, budget.seconds)
        _, where = anneal(instance, where, random, budget, steps, heat=10 * heat or 1e-9)
    better = Proposal(instance.spread(where), is_cut_short=budget.is_cut_short)
    return better if judge(problem, better).value < judge(problem, start).value else start


def _improve_order(problem: Problem, start: Proposal, deadline: float, random: Random) -> Proposal:
    """Shake the ranks that list scheduling goes by, and keep what is no worse."""
    lists = task_lists(problem)
    ranks = upward_ranks(lists)
    best, best_value = start, judge(problem, start).value
    bound = simple_bound(problem)
    current, spread = list(ranks), max(ranks, default=0.0)
    while monotonic() < deadline and best_value > bound * (1 + 1e-9):
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
    problem: Problem, start: Proposal, deadline: float, random: Random, heat: float, steps: int
) -> Proposal:
    """Move a task, a neighbourhood on one device, or a whole segment, judged by the whole schedule."""
    if not problem.graph or len(problem.devices) < 2:
        return start
    current = dict(start.placement)
    verdict = judge(problem, Proposal(current))
    value = best_value = verdict.value
    best, bound, step = dict(current), simple_bound(problem), 0
    while step < steps and best_value > bound * (1 + 1e-9):
        if monotonic() > deadline:
            return replace(start, placement=best, is_cut_short=True)
        step += 1
        changed = change(problem, current, verdict.parts, random)
        if not changed:
            continue
        found = judge(problem, Proposal({**current, **changed}))
        limit = heat * best_value * (1 - step / steps) ** 2
        if found.value <= value or (limit > 0 and random.random() < exp((value - found.value) / limit)):
            current, value, verdict = {**current, **changed}, found.value, found
            if value < best_value:
                best, best_value = dict(current), value
    return replace(start, placement=best)


def change(problem: Problem, current: Mapping[str, str], parts: Sequence[Part], random: Random) -> dict[str, str]:
    """A small change drawn by lot: a task, its neighbours beside it, or a whole segment, to another device.

    What cannot go stays, and what must be together goes together or stays; empty where nothing is left.
    """
    task = random.choice(list(current))
    near = [*problem.graph.predecessors(task), *problem.graph.successors(task)]
    wanted = random.choice([*problem.device_ids, *(current[n] for n in near)])
    moved, lot = [task], random.random()
    if lot < 0.3:
        moved += [n for n in near if current[n] == current[task]]
    elif lot < 0.45 and parts:
        moved = list(random.choice(parts).nodes)
    together = {task: group for group in problem.rules.colocated for task in group}
    changed: dict[str, str] = {}
    for task in moved:
        group = together.get(task, (task,))
        if current[task] != wanted and all(problem.time(member, wanted) < inf for member in group):
            changed.update(dict.fromkeys(group, wanted))
    return changed
