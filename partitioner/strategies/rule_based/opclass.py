"""``opclass``: each operator class to the kind of device that is made for it, then smoothed.

The prior is the usual division of work on a machine with CPU, GPU and NPU, as measured on an Intel Core Ultra in
https://doi.org/10.48550/arXiv.2409.14803 (NPU faster at matrix-vector, GPU at matrix-matrix and LSTM). Where there is
no device of that kind, or more than one, measured costs decide, summed over the class. O((tasks + edges) x devices)
for the placement, and for each round of smoothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import networkx as nx

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.scheduler.problem.problem import Problem, crossing_time_s
from trisect.scheduler.problem.task_graph import topological_order

from ...graph.paused_gc import paused_gc
from .. import strategy
from ..common.class_table import NEIGHBOUR, ClassTable, read_table
from ..common.repair import repair

_ROUNDS = 8


@strategy("opclass")
@paused_gc()
def opclass(problem: Problem, table: str = "") -> dict[str, str]:
    """Place by operator class, then move islands back that cost more in transfers than they gain.

    Parameters
    ----------
    table : str, optional
        Path of a TOML file that changes the table: ``opclass:my.toml``; see `class_table.read_table`.

    Raises
    ------
    InvalidInput
        For an invalid table.

    Examples
    --------
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> kinds = {"a": OpClass.MATMUL, "b": OpClass.ELEMENTWISE, "c": OpClass.MATVEC, "d": OpClass.CONTROL_FLOW}
    >>> for task, op_class in kinds.items():
    ...     graph.nodes[task]["features"] = OpFeatures("Op", op_class, 1e9, 10**6, 10**6, 0, "float32")
    >>> devices = [Device(f"{kind}:x", kind, "x", "") for kind in ("cpu", "gpu", "npu")]
    >>> opclass(Problem.of(graph, devices, lambda task, device: 1.0))
    {'a': 'gpu:x', 'b': 'gpu:x', 'c': 'npu:x', 'd': 'cpu:x'}
    """
    rule = read_table(Path(table)) if table else ClassTable()
    preferences = {task: _preference(rule, data) for task, data in problem.graph.nodes(data=True)}
    chosen = _device_of_each_group(problem, preferences)
    placement: dict[str, str] = {}
    for task in topological_order(problem.graph):
        op_class, kind = preferences[task]
        device = chosen[op_class, kind]
        if kind == NEIGHBOUR:
            arriving = {
                p: sum(problem.graph.get_edge_data(p, task)["tensors"].values())
                for p in problem.graph.predecessors(task)
            }
            device = placement[max(arriving, key=lambda p: arriving[p])] if arriving else device
        if problem.time(task, device) == inf:
            device = min(problem.device_ids, key=lambda d: problem.time(task, d))
        placement[task] = device
    return repair(problem, smooth(problem, placement))


def smooth(problem: Problem, placement: dict[str, str]) -> dict[str, str]:
    """Move islands (connected tasks of one device) to a neighbouring device while that makes them cheaper."""
    placement = dict(placement)
    near = {task: [*problem.graph.pred[task], *problem.graph.succ[task]] for task in problem.graph}
    for _ in range(_ROUNDS):
        same: nx.Graph[str] = nx.Graph()
        same.add_nodes_from(problem.graph)
        same.add_edges_from((a, b) for a, b in problem.graph.edges if placement[a] == placement[b])
        moved = False
        # The smallest first: they are the most likely to cost more than they gain, and form larger ones when they move.
        for island in sorted((sorted(c) for c in nx.connected_components(same)), key=lambda c: (len(c), c[0])):
            device = placement[island[0]]
            inside = set(island)
            around = {placement[n] for t in island for n in near[t] if n not in inside} - {device}
            if not around:
                continue
            costs = {d: _island_cost_s(problem, placement, inside, d) for d in {device, *around}}
            best = min(sorted(costs), key=lambda d: (costs[d], d != device))
            if best != device:
                placement.update(dict.fromkeys(island, best))
                moved = True
        if not moved:
            break
    return placement


def _preference(rule: ClassTable, data: Mapping[str, Any]) -> tuple[OpClass, str]:
    features: OpFeatures | None = data.get("features")
    if features is None:
        return OpClass.ELEMENTWISE, NEIGHBOUR
    return features.op_class, rule.kind_of(features, data.get("batch"))


def _device_of_each_group(
    problem: Problem, preferences: dict[str, tuple[OpClass, str]]
) -> dict[tuple[OpClass, str], str]:
    """Return the one device of the preferred kind; with none or several, the fastest for the group by its costs."""
    groups: dict[tuple[OpClass, str], list[str]] = defaultdict(list)
    for task, preference in preferences.items():
        groups[preference].append(task)
    chosen = {}
    for (op_class, kind), tasks in groups.items():
        candidates = [d.id for d in problem.devices if d.kind == kind] or problem.device_ids
        sums = {d: sum(problem.time(task, d) for task in tasks) for d in candidates}
        chosen[op_class, kind] = min(candidates, key=lambda d: sums[d])
    return chosen


def _island_cost_s(problem: Problem, placement: dict[str, str], inside: set[str], device: str) -> float:
    """Return the seconds of an island on a device, crossings included, and one more call if no neighbour is there."""
    work_s = sum(problem.time(task, device) for task in inside)
    around = {n for task in inside for n in nx.all_neighbors(problem.graph, task) if n not in inside}
    joins = any(placement[n] == device for n in around)
    return work_s + crossing_time_s(problem, placement, inside, device) + (0.0 if joins else problem.overhead(device))
