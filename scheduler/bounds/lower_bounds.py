"""Lower bounds of the objectives: the optimality certificate that a plan carries.

A bound holds for every placement and every cut, so it may use only what all of them pay: each task of a path after its
predecessor, wherever the two are, and every task somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from ..problem.disjoint_sets import DisjointSets
from ..problem.problem import Problem
from ..problem.task_graph import tensor_edges
from ..simulation.list_scheduling import TaskLists, task_lists

_MAX_CELLS = 2e7
"""Maximum number of table cells evaluated in the search for the weights of devices."""


@dataclass(frozen=True)
class LowerBound:
    """A lower bound of every placement's value, and how it is proven."""

    value: float
    by: str


def best_bound(problem: Problem, *, calls: int = 1) -> LowerBound:
    """Return the highest bound that needs no search.

    Parameters
    ----------
    calls : int
        Minimum number of segments of the placements to bound.

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
    """Return the seconds of the longest path when each of its tasks is placed best for the path.

    A change of device costs the transfer and another call.
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
                earliest = ends[d]
                for e in devices:
                    if e != d:
                        earliest = min(earliest, ends[e] + table[e * width + d] + overheads_s[d])
                begin = max(begin, earliest)
            row.append(begin + times[d])
        finish.append(row)
    return max((min(row) for row in finish), default=0.0)


def upper_bound(problem: Problem) -> float:
    """Return an upper bound of every placement's value: all tasks one by one, each on its slowest device."""
    if problem.objective == "memory":
        return sum(max(problem.held_bytes(task, d) for d in problem.device_ids) for task in problem.graph) or 1.0
    slowest = sum(max(t for t in row if t < inf) for row in problem.times_s.values())
    slowest += len(problem.graph) * max((problem.overhead(d) for d in problem.device_ids), default=0.0)
    ids = problem.device_ids
    for _, _, tensors in tensor_edges(problem.graph):
        slowest += sum(max(problem.transfer_time(s, a, b) for a in ids for b in ids) for s in tensors.values())
        crossed = [problem.boundary_costs[t] for t in tensors if t in problem.boundary_costs]
        slowest += sum(max(cost.leave_s) + max(cost.enter_s) for cost in crossed)
    if problem.objective == "energy":
        slowest *= max(problem.platform.power_w[device] for device in ids)
    return slowest or 1.0


def _groups(problem: Problem) -> list[list[str]]:
    """Return the colocated groups, and every other task by itself."""
    groups = DisjointSets(problem.graph)
    for colocated in problem.rules.colocated:
        for task in colocated[1:]:
            groups.merge(colocated[0], task)
    return list(groups.members().values())


def _table(problem: Problem, groups: list[list[str]]) -> np.ndarray:
    """Return the seconds of each group on each device, shape (groups, devices)."""
    if len(groups) == len(problem.graph):
        return np.array([problem.times_s[group[0]] for group in groups])
    return np.array([np.sum([problem.times_s[task] for task in group], axis=0) for group in groups])


def _load(table: np.ndarray, overheads: np.ndarray) -> float:
    """Return the least largest load when tasks may be divided in fractions: the linear relaxation, from its dual.

    Any device weights that sum to one give a bound: the least cost of each group on the weighted devices. The best
    weights are searched for by exponentiated gradients (Kivinen and Warmuth 1997,
    https://doi.org/10.1006/inco.1996.2612), from uniform ones.
    """
    count, width = table.shape
    if width == 1:
        return float(table.sum() + overheads[0])
    finite = np.where(np.isfinite(table), table, 0.0)
    excluded = ~np.isfinite(table)
    weights = np.full(width, 1.0 / width)
    best, rate = 0.0, 2.0
    for step in range(int(np.clip(_MAX_CELLS / (count * width), 10, 300))):
        priced = np.where(excluded, inf, finite * weights)
        where = np.argmin(priced, axis=1)
        chosen = np.arange(count)
        bound = float(priced[chosen, where].sum() + np.min(weights * overheads))
        best = max(best, bound)
        loads = np.bincount(where, weights=finite[chosen, where], minlength=width)
        if loads.max() <= 0:
            break
        weights = weights * np.exp(rate / (1 + step) ** 0.5 * (loads / loads.max() - 1))
        weights = np.maximum(weights / weights.sum(), 1e-12)
        weights /= weights.sum()
    return best
