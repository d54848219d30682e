"""A placement played through in time: when each part runs, when its inputs arrive, and how long it all takes.

The rules are those of the runtime: a device runs one part at a time, a part starts when all that it reads has
arrived, a tensor travels once to each device that needs it, and transfers run beside computing.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.timeline import Event, Schedule, Timeline

from .problem import Part, Placement, Problem, tensor_edges

_STREAM_ITEMS = 8


def single_parts(problem: Problem, placement: Placement) -> list[Part]:
    """Each task as a part of its own."""
    return [Part(placement[node], (node,)) for node in problem.graph]


def evaluate(problem: Problem, parts: Sequence[Part]) -> tuple[float, Schedule]:
    """Value of the problem's objective (seconds; less is better), and the schedule that it was read from.

    For ``latency`` that is the time of one input through all parts. For ``throughput`` the time between two inputs of a
    long stream: the load of the busiest device.
    """
    if problem.objective == "latency":
        schedule = simulate(problem, parts)
        return schedule.latency_s, schedule
    loads: dict[str, float] = defaultdict(float)
    for part in parts:
        loads[part.device] += part_time_s(problem, part)
    period_s = max(loads.values(), default=0.0)
    return period_s, simulate(problem, parts, items=_STREAM_ITEMS, throughput_hz=1 / period_s if period_s > 0 else 0.0)


def part_time_s(problem: Problem, part: Part) -> float:
    """Seconds of one call of a part: the device's overhead and its tasks one after the other."""
    return problem.overhead(part.device) + sum(problem.time(node, part.device) for node in part.nodes)


def simulate(
    problem: Problem, parts: Sequence[Part], *, items: int = 1, throughput_hz: float | None = None
) -> Schedule:
    """Play parts through.

    Parameters
    ----------
    problem : Problem
    parts : sequence of Part
        Every task in exactly one; earlier parts go first where several could run.
    items : int
        Inputs of a stream, all there from the start; parts of different inputs overlap.
    throughput_hz : float, optional
        Where it is known better than from the few items simulated.

    Returns
    -------
    Schedule
        Parts are named by their position: ``"segment 0"``.

    Raises
    ------
    InfeasibleProblem
        When parts wait for each other.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, lambda size_bytes, src, dst: 0.5)
    >>> simulate(problem, [Part("cpu:a", ("x",)), Part("gpu:b", ("y",))]).latency_s
    2.5
    """
    durations = [part_time_s(problem, part) for part in parts]
    reads = _part_edges(problem, parts)
    readers: dict[int, list[int]] = defaultdict(list)
    for target, sources in enumerate(reads):
        for source in sources:
            readers[source].append(target)
    waiting = {(item, i): len(reads[i]) for item in range(items) for i in range(len(parts))}
    arrivals: dict[tuple[int, int], float] = defaultdict(float)
    # (time, order of creation, what): what is ("ready", item, part) or ("done", item, part).
    agenda: list[tuple[float, int, str, int, int]] = []
    order = 0
    for (item, i), count in waiting.items():
        if count == 0:
            heapq.heappush(agenda, (0.0, order, "ready", item, i))
            order += 1
    queues: dict[str, list[tuple[int, int]]] = defaultdict(list)
    busy: set[str] = set()
    events: list[Event] = []
    finished = 0
    while agenda:
        now = agenda[0][0]
        # Everything of this instant first, so that a device chooses among all that is ready.
        while agenda and agenda[0][0] == now:
            _, _, what, item, i = heapq.heappop(agenda)
            if what == "ready":
                heapq.heappush(queues[parts[i].device], (item, i))
                continue
            finished += 1
            busy.discard(parts[i].device)
            for target in readers[i]:
                arrived = now
                for tensor, size_bytes in reads[target][i].items():
                    cost_s = problem.transfer_time(size_bytes, parts[i].device, parts[target].device)
                    if cost_s > 0:
                        events.append(
                            Event(tensor, "transfer", parts[target].device, now, now + cost_s, item, size_bytes)
                        )
                    arrived = max(arrived, now + cost_s)
                key = (item, target)
                arrivals[key] = max(arrivals[key], arrived)
                waiting[key] -= 1
                if waiting[key] == 0:
                    heapq.heappush(agenda, (arrivals[key], order, "ready", item, target))
                    order += 1
        for device, queue in queues.items():
            if queue and device not in busy:
                item, i = heapq.heappop(queue)
                busy.add(device)
                events.append(Event(f"segment {i}", "compute", device, now, now + durations[i], item))
                heapq.heappush(agenda, (now + durations[i], order, "done", item, i))
                order += 1
    if finished < len(parts) * items:
        raise InfeasibleProblem(
            "the parts wait for each other in a circle", remedy="cut the placement into convex segments"
        )
    unique = {(e.item, e.kind, e.name, e.device, e.start_s): e for e in events}
    ordered = sorted(unique.values(), key=lambda e: (e.start_s, e.end_s, e.item, e.kind, e.name, e.device))
    totals = {} if throughput_hz is None else {"throughput_hz": throughput_hz}
    return Timeline.of(ordered, source="predicted", **totals)


def _part_edges(problem: Problem, parts: Sequence[Part]) -> list[dict[int, dict[str, int]]]:
    """Per part, what it reads from which other part: part -> {tensor: bytes}."""
    home = {node: i for i, part in enumerate(parts) for node in part.nodes}
    reads: list[dict[int, dict[str, int]]] = [{} for _ in parts]
    for source, target, tensors in tensor_edges(problem.graph):
        i, j = home[source], home[target]
        if i != j:
            reads[j].setdefault(i, {}).update(tensors)
    return reads
