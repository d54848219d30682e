"""``multilevel``: coarsen, place what is coarse, refine.

After Karypis and Kumar 1998, https://doi.org/10.1137/S1064827595287997, with matchings that keep the graph acyclic as
in Herrmann et al. 2019, https://doi.org/10.1137/18M1176865: a task joins its only successor, or its only predecessor.
The coarse graph is placed by list scheduling. O((tasks + edges) x devices x levels).
"""

from __future__ import annotations

from math import inf

from trisect.scheduler.lists import TaskLists, assign, by_rank, mean_times, task_lists, upward_ranks
from trisect.scheduler.problem import Problem
from trisect.scheduler.solution import Proposal

from . import strategy
from .obedience import obedient

_COARSE = 100
"""A group takes at most this part of all work, so that there is something left to place."""
_LEVELS = 12
_PASSES = 2


@strategy("multilevel")
def multilevel(problem: Problem) -> Proposal:
    """Join what only leads to one another, place the pieces, then set borders right task by task.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0)
    >>> sorted(multilevel(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    home = _coarsen(lists)
    coarse = _contracted(lists, home)
    found = assign(coarse, by_rank(upward_ranks(coarse)))
    where = [found.where[group] for group in home]
    _refine(lists, where)
    order = by_rank(upward_ranks(lists))
    return obedient(problem, lists, assign(lists, order, fixed=dict(enumerate(where))))


def _coarsen(lists: TaskLists) -> list[int]:
    """Group of each task, groups in topological order; joined along edges that are the only way."""
    count = len(lists.tasks)
    means = mean_times(lists)
    most = sum(means) / _COARSE
    parent = list(range(count))
    weight = means
    able = [{d for d, time in enumerate(row) if time < inf} for row in lists.times]

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for _ in range(_LEVELS):
        into: dict[int, set[int]] = {}
        out: dict[int, set[int]] = {}
        for i in range(count):
            a = find(i)
            for j, _ in lists.succs[i]:
                b = find(j)
                if a != b:
                    out.setdefault(a, set()).add(b)
                    into.setdefault(b, set()).add(a)
        busy: set[int] = set()
        for a, following in out.items():
            for b in following:
                only = len(following) == 1 or len(into[b]) == 1
                free = a not in busy and b not in busy
                if only and free and weight[a] + weight[b] <= most and able[a] & able[b]:
                    parent[b] = a
                    weight[a] += weight[b]
                    able[a] &= able[b]
                    busy |= {a, b}
                    break
        if not busy:
            break
    return [find(i) for i in range(count)]


def _contracted(lists: TaskLists, home: list[int]) -> TaskLists:
    """The graph of groups; rewrites `home` to number them in topological order."""
    following: dict[int, set[int]] = {h: set() for h in home}
    for i, row in enumerate(lists.succs):
        following[home[i]].update(home[j] for j, _ in row if home[j] != home[i])
    waiting = dict.fromkeys(following, 0)
    for others in following.values():
        for h in others:
            waiting[h] += 1
    order = [h for h, count in waiting.items() if not count]
    for h in order:  # grows while it is walked
        for other in following[h]:
            waiting[other] -= 1
            if not waiting[other]:
                order.append(other)
    number = {h: n for n, h in enumerate(order)}
    home[:] = [number[h] for h in home]
    width = len(lists.devices)
    times = [[0.0] * width for _ in order]
    arriving: list[dict[int, tuple[float, ...]]] = [{} for _ in order]
    leaving: list[dict[int, float]] = [{} for _ in order]
    for i, h in enumerate(home):
        times[h] = [a + b for a, b in zip(times[h], lists.times[i], strict=True)]
        for p, table in lists.preds[i]:
            if home[p] != h:
                known = arriving[h].get(home[p])
                arriving[h][home[p]] = table if known is None else tuple(map(max, known, table))
        for j, mean in lists.succs[i]:
            if home[j] != h:
                leaving[h][home[j]] = max(mean, leaving[h].get(home[j], 0.0))
    return TaskLists(
        [str(n) for n in range(len(order))],
        lists.devices,
        [tuple(row) for row in times],
        [list(row.items()) for row in arriving],
        [list(row.items()) for row in leaving],
    )


def _refine(lists: TaskLists, where: list[int]) -> None:
    """Move single tasks beside their neighbours where that costs less work and transfers, and loads stay even."""
    width = len(lists.devices)
    load = [0.0] * width
    for i, d in enumerate(where):
        load[d] += lists.times[i][d]
    tables = {(p, i): table for i, row in enumerate(lists.preds) for p, table in row}
    for _ in range(_PASSES):
        limit = max(load)
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
