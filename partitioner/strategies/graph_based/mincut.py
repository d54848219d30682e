"""``mincut``: minimises the total of work and transfers (time, or energy), exactly for two devices.

Stone 1977, https://doi.org/10.1109/TSE.1977.233840: two devices without waiting are a minimum cut. With more devices,
pairs are cut again until nothing improves (swap moves: Boykov, Veksler and Zabih 2001,
https://doi.org/10.1109/34.969114). Each cut O(tasks^2 x edges) at worst, near linear on layered graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

from trisect.scheduler.problem.problem import Placement, Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import tensor_edges

from .. import strategy
from ..common.repair import repair

_SOURCE, _SINK = "source", "sink"


@strategy("mincut")
def mincut(problem: Problem) -> Proposal:
    """Minimise the total time, transfers included; for the objective energy, the total joules.

    For energy and two devices the result is proven optimal but for the call overhead of segments.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(mincut(problem).placement.values())
    {'gpu:y'}
    """
    prices = _Prices.of(problem)
    placement, cost = _cheapest(prices)
    if problem.objective == "energy" and len(problem.devices) <= 2:
        call = min(problem.overhead(d) * problem.platform.power_w[d] for d in problem.device_ids)
        return Proposal(repair(problem, placement), bound=(cost + call) * (1 - 1e-9), bound_by="minimum cut")
    return Proposal(repair(problem, placement))


@dataclass(frozen=True)
class _Prices:
    """The costs of tasks and of crossing tensors in the unit of the objective: seconds, or joules."""

    problem: Problem
    factors: dict[str, float]
    """Device id -> price of a second: its power for energy, else 1."""

    @classmethod
    def of(cls, problem: Problem) -> _Prices:
        is_energy = problem.objective == "energy"
        return cls(problem, {d: problem.platform.power_w[d] if is_energy else 1.0 for d in problem.device_ids})

    def task(self, task: str, device: str) -> float:
        time_s = self.problem.time(task, device)
        return time_s * self.factors[device] if time_s < inf else inf

    def crossing(self, tensor: str, size_bytes: int, src: str, dst: str) -> float:
        """Return the price of a tensor between two devices; the transfer is work of the receiving device."""
        if src == dst:
            return 0.0
        problem, boundary = self.problem, self.problem.boundary_costs.get(tensor)
        moving = problem.transfer_time(size_bytes, src, dst) * self.factors[dst]
        if boundary is None:
            return moving
        source, target = problem.column(src), problem.column(dst)
        sides = boundary.between((source, target))
        return sides.leave_s[source] * self.factors[src] + moving + sides.enter_s[target] * self.factors[dst]


def _cheapest(prices: _Prices) -> tuple[dict[str, str], float]:
    problem = prices.problem
    placement = {task: min(problem.allowed(task), key=lambda d: prices.task(task, d)) for task in problem.graph}
    cost = _cost(prices, placement)
    improved = len(problem.devices) > 1
    while improved:
        improved = False
        for one, other in combinations(problem.device_ids, 2):
            swapped = _swap(prices, placement, one, other)
            if _cost(prices, swapped) < cost * (1 - 1e-9):
                placement, cost, improved = swapped, _cost(prices, swapped), True
        improved = improved and len(problem.devices) > 2
    return placement, cost


def _cost(prices: _Prices, placement: Placement) -> float:
    """Return the total of all tasks and all crossings; a tensor is transferred once to each device."""
    moved = {
        (tensor, placement[target]): prices.crossing(tensor, size, placement[source], placement[target])
        for source, target, tensors in tensor_edges(prices.problem.graph)
        for tensor, size in tensors.items()
    }
    return sum(prices.task(task, device) for task, device in placement.items()) + sum(moved.values())


def _swap(prices: _Prices, placement: dict[str, str], one: str, other: str) -> dict[str, str]:
    """Return the best placement in which tasks of two devices may change between them."""
    network: nx.DiGraph[object] = nx.DiGraph()
    free = {task for task, device in placement.items() if device in (one, other)}
    for task in free:
        # Cut from the source = on the second device.
        _join(network, _SOURCE, (task,), prices.task(task, other))
        _join(network, (task,), _SINK, prices.task(task, one))
    for source, target, tensors in tensor_edges(prices.problem.graph):
        if source in free and target in free:
            for tensor, size in tensors.items():
                # One node per tensor and direction: however many readers are beyond, it is paid once.
                _join(network, (source,), (tensor, "to"), prices.crossing(tensor, size, one, other))
                _join(network, (tensor, "to"), (target,), inf)
                _join(network, (tensor, "back"), (source,), prices.crossing(tensor, size, other, one))
                _join(network, (target,), (tensor, "back"), inf)
        elif source in free or target in free:
            task = source if source in free else target
            for tensor, size in tensors.items():
                ends = [(d, placement[target]) if task == source else (placement[source], d) for d in (one, other)]
                on_one, on_other = (prices.crossing(tensor, size, *pair) for pair in ends)
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
