"""``multilevel``: coarsen the graph, place the coarse graph, refine.

After Karypis and Kumar 1998, https://doi.org/10.1137/S1064827595287997, with matchings that keep the graph acyclic as
in Herrmann et al. 2019, https://doi.org/10.1137/18M1176865: a task joins its only successor, or its only predecessor.
The coarse graph is placed by list scheduling. O((tasks + edges) x devices x levels).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from operator import mul

from trisect.scheduler.problem.disjoint_sets import DisjointSets
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import kahn_order
from trisect.scheduler.simulation.list_scheduling import (
    TaskLists,
    by_rank,
    mean_times,
    schedule_in_order,
    task_lists,
    upward_ranks,
)

from ...graph.paused_gc import paused_gc
from .. import strategy
from ..common.repair import repaired_proposal

_MIN_GROUPS = 100
"""A group holds at most this fraction (1/100) of all work, so that enough groups are left to place."""
_LEVELS = 12
_PASSES = 2


@strategy("multilevel")
@paused_gc()
def multilevel(problem: Problem) -> Proposal:
    """Merge tasks along unique edges, place the groups, then refine their boundaries task by task.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> sorted(multilevel(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    priced = _priced(problem, lists)
    group_of = _coarsen(priced)
    coarse = _contracted(priced, group_of)
    rough = _placed(problem, coarse)
    where = [rough[group] for group in group_of]
    _refine(priced, where, is_balanced=problem.objective != "energy")
    order = by_rank(upward_ranks(lists))
    return repaired_proposal(problem, lists, schedule_in_order(lists, order, fixed=dict(enumerate(where))))


def _priced(problem: Problem, lists: TaskLists) -> TaskLists:
    """Return the lists with the unit of the objective in place of seconds: joules, or bytes of weights."""
    if problem.objective == "memory":
        rows = [
            tuple(problem.held_bytes(task, d) if t < inf else inf for d, t in zip(lists.devices, row, strict=True))
            for task, row in zip(lists.tasks, lists.times, strict=True)
        ]
        return replace(lists, times=rows)
    if problem.objective == "energy":
        power = [problem.platform.power_w[device] for device in lists.devices]
        every = power * len(power)  # a transfer from i to j is at i * devices + j, and is work of j
        return replace(
            lists,
            times=[tuple(t * w for t, w in zip(row, power, strict=True)) for row in lists.times],
            preds=[[(p, tuple(map(mul, table, every))) for p, table in row] for row in lists.preds],
        )
    return lists


def _placed(problem: Problem, coarse: TaskLists) -> list[int]:
    """Return a device for each group: by list scheduling for latency, the cheapest for energy, else balancing loads."""
    if problem.objective == "latency":
        return schedule_in_order(coarse, by_rank(upward_ranks(coarse))).where
    load = [0.0] * len(coarse.devices)
    where = [0] * len(coarse.tasks)
    is_additive = problem.objective == "energy"
    for i in sorted(range(len(where)), key=lambda i: -min(coarse.times[i])):
        row = coarse.times[i]
        where[i] = min(range(len(row)), key=lambda d: row[d] + (0.0 if is_additive else load[d]))
        load[where[i]] += row[where[i]]
    return where


def _coarsen(lists: TaskLists) -> list[int]:
    """Return the group of each task; tasks are merged along edges that are their only input or output."""
    count = len(lists.tasks)
    means = mean_times(lists)
    max_weight = sum(means) / _MIN_GROUPS
    groups = DisjointSets(range(count))
    weight = means
    able = [sum(1 << d for d, time in enumerate(row) if time < inf) for row in lists.times]

    edges = [(i, j) for i, row in enumerate(lists.succs) for j, _ in row]
    for _ in range(_LEVELS):
        leaving, arriving = [0] * count, [0] * count
        for a, b in edges:
            leaving[a] += 1
            arriving[b] += 1
        busy: set[int] = set()
        for a, b in edges:
            is_unique = leaving[a] == 1 or arriving[b] == 1
            free = a not in busy and b not in busy
            if is_unique and free and weight[a] + weight[b] <= max_weight and able[a] & able[b]:
                groups.merge(a, b)
                weight[a] += weight[b]
                able[a] &= able[b]
                busy.update((a, b))
        if not busy:
            break
        edges = list(dict.fromkeys((a, b) for i, j in edges if (a := groups.find(i)) != (b := groups.find(j))))
    return [groups.find(i) for i in range(count)]


def _contracted(lists: TaskLists, group_of: list[int]) -> TaskLists:
    """Return the graph of groups; renumbers `group_of` in topological order."""
    following: dict[int, set[int]] = {h: set() for h in group_of}
    for i, row in enumerate(lists.succs):
        following[group_of[i]].update(group_of[j] for j, _ in row if group_of[j] != group_of[i])
    order = kahn_order(following)
    number = {h: n for n, h in enumerate(order)}
    group_of[:] = [number[h] for h in group_of]
    width = len(lists.devices)
    times = [[0.0] * width for _ in order]
    arriving: list[dict[int, tuple[float, ...]]] = [{} for _ in order]
    leaving: list[dict[int, float]] = [{} for _ in order]
    for i, h in enumerate(group_of):
        times[h] = [a + b for a, b in zip(times[h], lists.times[i], strict=True)]
        for p, table in lists.preds[i]:
            if group_of[p] != h:
                known = arriving[h].get(group_of[p])
                arriving[h][group_of[p]] = table if known is None else tuple(map(max, known, table))
        for j, mean in lists.succs[i]:
            if group_of[j] != h:
                leaving[h][group_of[j]] = max(mean, leaving[h].get(group_of[j], 0.0))
    return TaskLists(
        [str(n) for n in range(len(order))],
        lists.devices,
        [tuple(row) for row in times],
        [list(row.items()) for row in arriving],
        [list(row.items()) for row in leaving],
    )


def _refine(lists: TaskLists, where: list[int], is_balanced: bool) -> None:
    """Move single tasks to a neighbour's device where that costs less and the largest load does not grow."""
    width = len(lists.devices)
    load = [0.0] * width
    for i, d in enumerate(where):
        load[d] += lists.times[i][d]
    tables = {(p, i): table for i, row in enumerate(lists.preds) for p, table in row}
    for _ in range(_PASSES):
        limit = max(load) if is_balanced else inf
        moved = False
        for i, times in enumerate(lists.times):
            here = where[i]
            beside = {where[p] for p, _ in lists.preds[i]} | {where[j] for j, _ in lists.succs[i]}
            if beside <= {here}:
                continue
            costs = {}
            for d in (here, *(beside - {here})):
                cost = times[d]
                for p, table in lists.preds[i]:
                    cost += table[where[p] * width + d]
                for j, _ in lists.succs[i]:
                    cost += tables[i, j][d * width + where[j]]
                if d == here or load[d] + times[d] <= limit:
                    costs[d] = cost
            best = min(sorted(costs), key=lambda d: (costs[d], d != here))
            if best != here:
                load[here] -= times[here]
                load[best] += times[best]
                where[i] = best
                moved = True
        if not moved:
            break
