"""How long a part (a segment, or a single task) keeps its device busy: tasks, call, boundaries, wake-up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..problem.boundary_costs import BoundarySides
from ..problem.problem import Part, Placement, Problem


def part_time_s(problem: Problem, part: Part, placement: Placement) -> float:
    """Return the seconds of one call of a part in a loop: call overhead, its tasks one by one, boundary crossings."""
    if (known_s := problem.known_parts_s.get(part)) is not None:
        return known_s
    column, times_s = problem.column(part.device), problem.times_s
    work_s = sum(times_s[node][column] for node in part.nodes)
    return problem.overhead(part.device) + work_s + boundary_time_s(problem, part, placement)


def part_times_s(problem: Problem, parts: Sequence[Part]) -> list[float]:
    """Return the seconds of one call of each part in sequence: longer where its engine was idle in between."""
    placement = placement_of(parts)
    times_s = [part_time_s(problem, part, placement) for part in parts]
    wakeup_costs = problem.platform.wakeup_costs
    if wakeup_costs is None:
        return times_s
    wakeups_s = wakeup_costs.extra_s([(part.device, t) for part, t in zip(parts, times_s, strict=True)])
    return [time_s + wakeup_s for time_s, wakeup_s in zip(times_s, wakeups_s, strict=True)]


def loads_s(problem: Problem, parts: Sequence[Part]) -> dict[str, float]:
    """Return device id -> seconds of work on one input, call overhead included, when it runs alone."""
    loads: dict[str, float] = defaultdict(float)
    for part, time_s in zip(parts, part_times_s(problem, parts), strict=True):
        loads[part.device] += time_s
    return dict(loads)


def placement_of(parts: Sequence[Part]) -> dict[str, str]:
    """Return the device of each task of some parts."""
    return {task: part.device for part in parts for task in part.nodes}


def boundary_time_s(problem: Problem, part: Part, placement: Placement) -> float:
    """Return the seconds that tensors entering and leaving a part add to its tasks and its call.

    Each tensor counts once on its way out, however many parts read it, and once on its way in.

    Parameters
    ----------
    placement : mapping of str to str
        The device of each task, also of those outside the part: an image crosses in NHWC layout only where all devices
        that use it compute in that.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.boundary_costs import BoundaryCost
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> costs = {"t": BoundaryCost(leave_s=(0.25, 0.5), enter_s=(2.0, 4.0))}
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, boundary_costs=costs)
    >>> parts = Part("cpu:a", ("x",)), Part("gpu:b", ("y",))
    >>> [boundary_time_s(problem, part, placement_of(parts)) for part in parts]
    [0.25, 4.0]
    >>> boundary_time_s(problem, Part("gpu:b", ("x", "y")), {"x": "gpu:b", "y": "gpu:b"})
    0.0
    """
    costs = problem.boundary_costs
    if not costs:
        return 0.0
    graph = problem.graph
    inside, column = set(part.nodes), problem.column(part.device)
    leaving: dict[str, str] = {}
    entering: dict[str, str] = {}
    for task in part.nodes:
        for other, data in graph.succ[task].items():
            if other not in inside:
                leaving |= dict.fromkeys(data["tensors"], task)
        for other, data in graph.pred[task].items():
            if other not in inside:
                entering |= dict.fromkeys(data["tensors"], other)

    def sides(tensor: str, producer: str) -> BoundarySides:
        cost = costs[tensor]
        if cost.in_nhwc is None:
            return cost
        readers = [other for other, data in graph.succ[producer].items() if tensor in data["tensors"]]
        return cost.between({problem.column(placement[task]) for task in (producer, *readers)})

    leave_s = sum(sides(name, task).leave_s[column] for name, task in sorted(leaving.items()) if name in costs)
    enter_s = sum(sides(name, task).enter_s[column] for name, task in sorted(entering.items()) if name in costs)
    return float(leave_s + enter_s)
