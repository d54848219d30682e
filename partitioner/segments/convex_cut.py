"""Cuts a placement into convex parts, as few as possible.

A part is a sequence of tasks of one device in some topological order of the graph, so that no parts wait for each
other. Running everything that is ready on one device before switching to the next gives the fewest parts for two
devices (by an exchange argument: switching earlier never makes more tasks ready), and few for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from trisect.runtime.plans.timeline import Schedule
from trisect.scheduler.problem.problem import Part, Placement, Problem
from trisect.scheduler.problem.task_graph import TaskGraph, topological_order
from trisect.scheduler.simulation.simulate import evaluate
from trisect.scheduler.simulation.validate import validate_parts

_MORE_PARTS_RATIO_MAX = 0.99
"""More parts than necessary must be at least 1 % faster: each is a file, a session and a call."""


def cut(graph: TaskGraph, placement: Placement) -> list[Part]:
    """Cut a placed task graph into as few convex parts as the greedy rule finds.

    Parameters
    ----------
    placement : mapping of str to str
        Task -> device id, for every task.

    Returns
    -------
    list of Part
        In an order in which they can run; the tasks of each in the graph's order.

    Examples
    --------
    >>> import networkx as nx
    >>> graph = nx.DiGraph([("a", "b"), ("b", "c"), ("a", "d"), ("d", "c")])
    >>> [part.nodes for part in cut(graph, {"a": "cpu", "b": "gpu", "c": "cpu", "d": "cpu"})]
    [('a', 'd'), ('b',), ('c',)]
    """
    if not graph:
        return []
    position = {node: i for i, node in enumerate(graph)}
    devices = sorted({placement[node] for node in graph})
    candidates = []
    for first in devices:
        candidates.append(_runs(graph.succ, graph.pred, placement, devices, first))
        candidates.append(list(reversed(_runs(graph.pred, graph.succ, placement, devices, first))))
    fewest = min(candidates, key=len)
    return [Part(placement[run[0]], tuple(sorted(run, key=position.__getitem__))) for run in fewest]


def divide(graph: TaskGraph, parts: Sequence[Part]) -> list[Part]:
    """Divide parts so that tasks do not wait for inputs, or delay outputs, of other tasks in the same part.

    Within a part, tasks stay together whose last required part and first dependent part are the same. Results that are
    needed early are then available early, and tasks with few dependencies do not wait for those of others.

    Returns
    -------
    list of Part
        In an order in which they can run.

    Examples
    --------
    >>> import networkx as nx
    >>> graph = nx.DiGraph([("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")])
    >>> parts = cut(graph, {"a": "cpu", "b": "cpu", "c": "gpu", "d": "cpu"})
    >>> [part.nodes for part in parts], [part.nodes for part in divide(graph, parts)]
    ([('a', 'b'), ('c',), ('d',)], [('a',), ('b',), ('c',), ('d',)])
    """
    home = {node: i for i, part in enumerate(parts) for node in part.nodes}
    order = topological_order(graph)
    needs: dict[str, int] = {}
    for node in order:
        before = [needs[p] if home[p] == home[node] else home[p] for p in graph.predecessors(node)]
        needs[node] = max(before, default=-1)
    needed: dict[str, int] = {}
    for node in reversed(order):
        after = [needed[s] if home[s] == home[node] else home[s] for s in graph.successors(node)]
        needed[node] = min(after, default=len(parts))
    divided: list[Part] = []
    for part in parts:
        groups: dict[tuple[int, int], list[str]] = {}
        for node in part.nodes:
            groups.setdefault((needs[node], needed[node]), []).append(node)
        divided.extend(Part(part.device, tuple(groups[key])) for key in sorted(groups))
    return divided


def best_cut(
    problem: Problem, placement: Placement, known: Sequence[Part] | None = None
) -> tuple[list[Part], float, Schedule]:
    """Cut a placement, and evaluate the result.

    Parameters
    ----------
    known : sequence of Part, optional
        A cut of it; used if it is valid and better.

    Returns
    -------
    parts : list of Part
        The fewest, unless dividing them is faster because branches then run in parallel.
    value : float
        Value of the problem's objective.
    schedule : Schedule
    """
    fewest = cut(problem.graph, placement)
    best = (fewest, *evaluate(problem, fewest))
    divided = divide(problem.graph, fewest)
    if len(divided) > len(fewest) and _is_allowed(problem, divided):
        other = (divided, *evaluate(problem, divided))
        if other[1] < _MORE_PARTS_RATIO_MAX * best[1]:
            best = other
    if known is not None and not validate_parts(problem, placement, known):
        other = (list(known), *evaluate(problem, known))
        if other[1] < best[1] or (_is_allowed(problem, known) and not _is_allowed(problem, best[0])):
            best = other
    return best


def _is_allowed(problem: Problem, parts: Sequence[Part]) -> bool:
    """Return whether the number of parts is within the limit."""
    rules = problem.rules
    most = len({part.device for part in parts}) if rules.contiguous else rules.max_segments
    return most is None or len(parts) <= most


def _runs(
    successors: Mapping[str, Iterable[str]],
    predecessors: Mapping[str, Mapping[str, object]],
    placement: Placement,
    devices: list[str],
    first: str,
) -> list[list[str]]:
    """Return sequences of tasks of one device each; all that is ready runs before the device changes."""
    waiting = {node: len(predecessors[node]) for node in predecessors}
    ready: dict[str, list[str]] = {device: [] for device in devices}
    for node, count in waiting.items():
        if count == 0:
            ready[placement[node]].append(node)
    runs: list[list[str]] = []
    device = first if ready[first] else _longest(successors, waiting, placement, ready)
    while device is not None:
        run, ready[device] = ready[device], []
        for node in run:  # grows during iteration
            for successor in successors[node]:
                waiting[successor] -= 1
                if waiting[successor] == 0:
                    (run if placement[successor] == device else ready[placement[successor]]).append(successor)
        runs.append(run)
        device = _longest(successors, waiting, placement, ready)
    return runs


def _longest(
    successors: Mapping[str, Iterable[str]],
    waiting: Mapping[str, int],
    placement: Placement,
    ready: Mapping[str, list[str]],
) -> str | None:
    """Return the device that can run most tasks without waiting for another; None when nothing is ready."""
    candidates = [device for device, nodes in ready.items() if nodes]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    lengths = {}
    for device in candidates:
        missing: dict[str, float] = {}
        run = list(ready[device])
        for node in run:
            for successor in successors[node]:
                if placement[successor] == device:
                    missing[successor] = missing.get(successor, waiting[successor]) - 1
                    if missing[successor] == 0:
                        missing[successor] = inf
                        run.append(successor)
        lengths[device] = len(run)
    return max(candidates, key=lambda d: lengths[d])
