"""What no placement can beat: lower bounds of an objective, the certificate that a plan carries.

A bound holds for every placement and every cut, so it may only use what all of them pay: each task on a path after the
one before it, wherever the two are, and all of them somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from ..problem.problem import Problem
from ..problem.task_graph import tensor_edges
from ..simulation.list_scheduling import TaskLists, task_lists

_LOTS = 2e7
"""Table cells looked at in the search for the weights of devices, at most."""


@dataclass(frozen=True)
class LowerBound:
    """A value that no placement is below, and how that is known."""

    value: float
    by: str


def best_bound(problem: Problem, *, calls: int = 1) -> LowerBound:
    """The highest bound that costs no search.

    Parameters
    ----------
    problem : Problem
    calls : int
        For placements that are cut into so many segments, or more.

    Returns
    -------
    LowerBound
        By ``critical path`` (with its transfers and calls), ``load`` (of tasks divided in fractions), ``largest
        task``, or ``cheapest device`` of each task.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> times = {"x": {"cpu:a": 1.0, "gpu:b": 3.0}, "y": {"cpu:a": 5.0, "gpu:b": 2.0}}
    >>> best_bound(Problem.of(graph, devices, times, Platform(default_link=LinkCost(0.5))))
    LowerBound(value=3.5, by='critical path')
    """
    if not problem.graph:
        return LowerBound(0.0, "load")
    groups = _groups(problem)
    overheads = np.array([problem.overhead(device) for device in problem.device_ids])
    times = _table(problem, groups)
    if problem.objective == "energy":
        power = np.array([problem.platform.power_w.get(device, inf) for device in problem.device_ids])
        joules = np.where(times < inf, np.where(times < inf, times, 0.0) * power, inf)
        used = float(np.sum(np.min(joules, axis=1)) + calls * np.min(overheads * power))
        return LowerBound(used, "cheapest device")
    if problem.objective == "memory":
        held = [[sum(problem.held_bytes(task, d) for task in group) for d in problem.device_ids] for group in groups]
        weights = np.where(times < inf, np.array(held), inf)
        load = LowerBound(_load(weights, 0 * overheads), "load")
        largest_task = float(np.max(np.min(weights, axis=1)))
        return max(load, LowerBound(largest_task, "largest task"), key=lambda bound: bound.value)
    load = LowerBound(_load(times, calls * overheads), "load")
    if problem.objective == "throughput":
        largest = LowerBound(float(np.max(np.min(times + overheads, axis=1))), "largest task")
        return max(load, largest, key=lambda bound: bound.value)
    path = LowerBound(critical_path_s(task_lists(problem), [float(o) for o in overheads]), "critical path")
    return max(path, load, key=lambda bound: bound.value)


def critical_path_s(lists: TaskLists, overheads_s: list[float]) -> float:
    """Seconds of the longest path when each of its tasks is where that is best for the path.

    A change of device takes the transfer and another call.
    """
    devices = range(len(lists.devices))
    width = len(lists.devices)
    finish: list[list[float]] = []
    for times, before in zip(lists.times, lists.preds, strict=True):
        row = []
        for d in devices:
            begin = overheads_s[d]
            for p, table in before:
                ends = finish[p]
                soonest = ends[d]
                for e in devices:
                    if e != d:
                        soonest = min(soonest, ends[e] + table[e * width + d] + overheads_s[d])
                begin = max(begin, soonest)
            row.append(begin + times[d])
        finish.append(row)
    return max((min(row) for row in finish), default=0.0)


def upper_bound(problem: Problem) -> float:
    """What no placement's value is above: everything one after the other, where it is slowest."""
    if problem.objective == "memory":
        return sum(max(problem.held_bytes(task, d) for d in problem.device_ids) for task in problem.graph) or 1.0
    slowest = sum(max(t for t in row if t < inf) for row in problem.times_s.values())
    slowest += len(problem.graph) * max((problem.overhead(d) for d in problem.device_ids), default=0.0)
    ids = problem.device_ids
    for _, _, tensors in tensor_edges(problem.graph):
        slowest += sum(max(problem.crossing_time(t, s, a, b) for a in ids for b in ids) for t, s in tensors.items())
    if problem.objective == "energy":
        slowest *= max(problem.platform.power_w[device] for device in ids)
    return slowest or 1.0


def _groups(problem: Problem) -> list[list[str]]:
    """Tasks that must be together, and every other task by itself."""
    parent = {task: task for task in problem.graph}

    def find(task: str) -> str:
        while parent[task] != task:
            task = parent[task]
        return task

    for together in problem.rules.colocated:
        for task in together[1:]:
            parent[find(task)] = find(together[0])
    groups: dict[str, list[str]] = {}
    for task in problem.graph:
        groups.setdefault(find(task), []).append(task)
    return list(groups.values())


def _table(problem: Problem, groups: list[list[str]]) -> np.ndarray:
    """Seconds of each group on each device."""
    if len(groups) == len(problem.graph):
        return np.array([problem.times_s[group[0]] for group in groups])
    return np.array([np.sum([problem.times_s[task] for task in group], axis=0) for group in groups])


def _load(table: np.ndarray, overheads: np.ndarray) -> float:
    """Least largest load when work may be shared out in fractions: the linear relaxation, from its dual.

    Any weights of the devices that add up to one give a bound: what each group costs at least on the weighted devices.
    The best weights are looked for by exponentiated gradients, uniform ones first.
    """
    count, width = table.shape
    if width == 1:
        return float(table.sum() + overheads[0])
    finite = np.where(np.isfinite(table), table, 0.0)
    barred = ~np.isfinite(table)
    weights = np.full(width, 1.0 / width)
    best, rate = 0.0, 2.0
    for step in range(int(np.clip(_LOTS / (count * width), 10, 300))):
        priced = np.where(barred, inf, finite * weights)
        where = np.argmin(priced, axis=1)
        chosen = np.arange(count)
        found = float(priced[chosen, where].sum() + np.min(weights * overheads))
        best = max(best, found)
        loads = np.bincount(where, weights=finite[chosen, where], minlength=width)
        if loads.max() <= 0:
            break
        weights = weights * np.exp(rate / (1 + step) ** 0.5 * (loads / loads.max() - 1))
        weights = np.maximum(weights / weights.sum(), 1e-12)
        weights /= weights.sum()
    return best
