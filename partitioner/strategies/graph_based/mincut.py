"""``mincut``: least work and transfers in all, exactly, for two devices: the least time, or the least energy.

Stone 1977, https://doi.org/10.1109/TSE.1977.233840: two devices and no waiting make a minimum cut. For more devices
pairs of them are cut anew until nothing gains (swap moves: Boykov, Veksler and Zabih 2001,
https://doi.org/10.1109/34.969114). Each cut O(tasks^2 x edges) at worst, near linear on layered graphs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import inf

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

from trisect.scheduler.problem.problem import Placement, Problem, tensor_edges
from trisect.scheduler.problem.solution import Proposal

from .. import strategy
from ..common.repair import obeying

_SOURCE, _SINK = "source", "sink"


@strategy("mincut")
def mincut(problem: Problem) -> Proposal:
    """Find the placement with the least time in all, transfers included; for the objective energy, the fewest joules.

    For energy and two devices that is a proof: nothing takes less, calls of segments aside.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0)
    >>> set(mincut(problem).placement.values())
    {'gpu:y'}
    """
    priced = _in_joules(problem) if problem.objective == "energy" else problem
    placement, cost = _least(priced)
    if problem.objective == "energy" and len(problem.devices) <= 2:
        call = min(problem.overhead(d) * problem.power_w[d] for d in problem.device_ids)
        return Proposal(obeying(problem, placement), bound=(cost + call) * (1 - 1e-9), bound_by="minimum cut")
    return Proposal(obeying(problem, placement))


def _in_joules(problem: Problem) -> Problem:
    """The problem with energy in the place of time."""
    power = [problem.power_w[device] for device in problem.device_ids]
    return replace(
        problem,
        times_s={
            task: tuple(t * w if t < inf else inf for t, w in zip(row, power, strict=True))
            for task, row in problem.times_s.items()
        },
        transfer_time_s=lambda size_bytes, src, dst: problem.transfer_time(size_bytes, src, dst) * problem.power_w[dst],
        borders={tensor: border.scaled(power) for tensor, border in problem.borders.items()},
    )


def _least(problem: Problem) -> tuple[dict[str, str], float]:
    placement = {task: min(problem.allowed(task), key=lambda d: problem.time(task, d)) for task in problem.graph}
    cost = _cost(problem, placement)
    gained = len(problem.devices) > 1
    while gained:
        gained = False
        for one, other in combinations(problem.device_ids, 2):
            found = _swap(problem, placement, one, other)
            if _cost(problem, found) < cost * (1 - 1e-9):
                placement, cost, gained = found, _cost(problem, found), True
        gained = gained and len(problem.devices) > 2
    return placement, cost


def _cost(problem: Problem, placement: Placement) -> float:
    """All work and all crossings; a tensor travels once to each device."""
    moved = {
        (tensor, placement[target]): problem.crossing_time(tensor, size, placement[source], placement[target])
        for source, target, tensors in tensor_edges(problem.graph)
        for tensor, size in tensors.items()
    }
    return sum(problem.time(task, device) for task, device in placement.items()) + sum(moved.values())


def _swap(problem: Problem, placement: dict[str, str], one: str, other: str) -> dict[str, str]:
    """The best placement in which tasks of two devices may change between them."""
    network: nx.DiGraph[object] = nx.DiGraph()
    free = {task for task, device in placement.items() if device in (one, other)}
    for task in free:
        # Cut from the source = on the second device.
        _join(network, _SOURCE, (task,), problem.time(task, other))
        _join(network, (task,), _SINK, problem.time(task, one))
    for source, target, tensors in tensor_edges(problem.graph):
        if source in free and target in free:
            for tensor, size in tensors.items():
                # One node per tensor and direction: however many readers are beyond, it is paid once.
                _join(network, (source,), (tensor, "to"), problem.crossing_time(tensor, size, one, other))
                _join(network, (tensor, "to"), (target,), inf)
                _join(network, (tensor, "back"), (source,), problem.crossing_time(tensor, size, other, one))
                _join(network, (target,), (tensor, "back"), inf)
        elif source in free or target in free:
            task = source if source in free else target
            for tensor, size in tensors.items():
                ends = [(d, placement[target]) if task == source else (placement[source], d) for d in (one, other)]
                on_one, on_other = (problem.crossing_time(tensor, size, *pair) for pair in ends)
                _join(network, _SOURCE, (task,), on_other)
                _join(network, (task,), _SINK, on_one)
    if not free:
        return placement
    _, (near, _) = nx.minimum_cut(network, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
    return {task: (one if (task,) in near else other) if task in free else device for task, device in placement.items()}


def _join(network: nx.DiGraph[object], a: object, b: object, capacity: float) -> None:
    if network.has_edge(a, b):
        if (a, b) in ((_SOURCE, b), (a, _SINK)) and "capacity" in network.edges[a, b]:
            network.edges[a, b]["capacity"] += capacity
        return
    # An edge without a capacity is one that must not be cut.
    network.add_edge(a, b, **({} if capacity == inf else {"capacity": capacity}))
