"""``opclass``: each class of work to the kind of device that is made for it, then smoothed.

The prior is the usual division of labour on a machine with CPU, GPU and NPU, as published for an Intel Core Ultra in
arXiv:2409.14803 (NPU quicker at matrix-vector, GPU at matrix-matrix and LSTM). Where it does not decide, because no
device of that kind is there or several are, measured costs do, summed over the class.
Complexity O((tasks + edges) x devices) for the placing, and for each round of smoothing.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf

import networkx as nx

from trisect.profiles.features import OpClass, OpFeatures
from trisect.scheduler.problem import Problem, crossing_time_s

from . import strategy
from .obedience import obeying

RULE: dict[OpClass, str] = {
    OpClass.MATMUL: "gpu",
    OpClass.CONV: "gpu",
    OpClass.ATTENTION: "gpu",
    OpClass.RECURRENT: "gpu",
    OpClass.MATVEC: "npu",
    OpClass.SHAPE: "cpu",
    OpClass.CONTROL_FLOW: "cpu",
    OpClass.NORM: "neighbour",
    OpClass.ELEMENTWISE: "neighbour",
    OpClass.DATA_MOVEMENT: "neighbour",
}
"""Class -> kind of device; ``neighbour``: where most of the input comes from: moving it costs more than the work."""

SMALL_FLOPS = 10_000.0
SMALL_BYTES = 16_384
"""Work below both is done sooner on the CPU than another device is started."""

_ROUNDS = 8


@strategy("opclass")
def opclass(problem: Problem) -> dict[str, str]:
    """Place by class of work, then send islands back that cost more in transfers than they gain.

    Examples
    --------
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> kinds = {"a": OpClass.MATMUL, "b": OpClass.ELEMENTWISE, "c": OpClass.MATVEC, "d": OpClass.CONTROL_FLOW}
    >>> for task, op_class in kinds.items():
    ...     graph.nodes[task]["features"] = OpFeatures("Op", op_class, 1e9, 10**6, 10**6, 0, "float32")
    >>> devices = [Device(f"{kind}:x", kind, "x", "") for kind in ("cpu", "gpu", "npu")]
    >>> opclass(Problem.of(graph, devices, lambda task, device: 1.0, lambda size_bytes, src, dst: 0.0))
    {'a': 'gpu:x', 'b': 'gpu:x', 'c': 'npu:x', 'd': 'cpu:x'}
    """
    wishes = {task: _wish(problem.graph.nodes[task].get("features")) for task in problem.graph}
    chosen = _device_of_each_group(problem, wishes)
    placement: dict[str, str] = {}
    for task in nx.topological_sort(problem.graph):
        op_class, kind = wishes[task]
        device = chosen[op_class, kind]
        if kind == "neighbour":
            arriving = {
                p: sum(problem.graph.edges[p, task]["tensors"].values()) for p in problem.graph.predecessors(task)
            }
            device = placement[max(arriving, key=lambda p: arriving[p])] if arriving else device
        if problem.time(task, device) == inf:
            device = min(problem.device_ids, key=lambda d: problem.time(task, d))
        placement[task] = device
    return obeying(problem, smooth(problem, placement))


def smooth(problem: Problem, placement: dict[str, str]) -> dict[str, str]:
    """Move islands (connected tasks of one device) to a neighbouring device while that makes them cheaper."""
    placement = dict(placement)
    for _ in range(_ROUNDS):
        same: nx.Graph[str] = nx.Graph()
        same.add_nodes_from(problem.graph)
        same.add_edges_from((a, b) for a, b in problem.graph.edges if placement[a] == placement[b])
        moved = False
        # The smallest first: they are the likeliest to cost more than they gain, and make larger ones when they move.
        for island in sorted((sorted(c) for c in nx.connected_components(same)), key=lambda c: (len(c), c[0])):
            device = placement[island[0]]
            inside = set(island)
            around = {placement[n] for t in island for n in nx.all_neighbors(problem.graph, t) if n not in inside}
            costs = {d: _island_cost_s(problem, placement, inside, d) for d in {device, *around}}
            best = min(sorted(costs), key=lambda d: (costs[d], d != device))
            if best != device:
                placement.update(dict.fromkeys(island, best))
                moved = True
        if not moved:
            break
    return placement


def _wish(features: OpFeatures | None) -> tuple[OpClass, str]:
    if features is None:
        return OpClass.ELEMENTWISE, "neighbour"
    kind = RULE[features.op_class]
    if (
        kind != "neighbour"
        and features.flops <= SMALL_FLOPS
        and features.bytes_read + features.bytes_written <= SMALL_BYTES
    ):
        kind = "cpu"
    return features.op_class, kind


def _device_of_each_group(problem: Problem, wishes: dict[str, tuple[OpClass, str]]) -> dict[tuple[OpClass, str], str]:
    """The one device of the wished kind; where there is none or several, the quickest for the group as measured."""
    groups: dict[tuple[OpClass, str], list[str]] = defaultdict(list)
    for task, wish in wishes.items():
        groups[wish].append(task)
    chosen = {}
    for (op_class, kind), tasks in groups.items():
        candidates = [d.id for d in problem.devices if d.kind == kind] or problem.device_ids
        sums = {d: sum(problem.time(task, d) for task in tasks) for d in candidates}
        chosen[op_class, kind] = min(candidates, key=lambda d: sums[d])
    return chosen


def _island_cost_s(problem: Problem, placement: dict[str, str], inside: set[str], device: str) -> float:
    """Time of the island on a device, with what crosses its border, and one more call if no neighbour is there."""
    work_s = sum(problem.time(task, device) for task in inside)
    around = {n for task in inside for n in nx.all_neighbors(problem.graph, task) if n not in inside}
    joins = any(placement[n] == device for n in around)
    return work_s + crossing_time_s(problem, placement, inside, device) + (0.0 if joins else problem.overhead(device))
