"""Event simulation of a placement: when each part runs, when its inputs arrive, and how long it all takes.

The rules are those of the runtime: a device runs one part at a time, a part starts when all its inputs have arrived, a
tensor is transferred once to each device that needs it, and transfers overlap computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from operator import attrgetter

from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.plans.timeline import Event, Schedule, Timeline

from ..problem.problem import Part, Placement, Problem
from .energy_and_memory import energy_j, peak_bytes
from .part_times import loads_s, part_times_s

_STREAM_ITEMS = 8
_ORDER = attrgetter("start_s", "end_s", "item", "kind", "name", "device")
PartLink = tuple[int, float, list[tuple[str, int, float]]]
"""A part that reads from another: its position, the delay of its last tensor, and the transferred tensors with their
sizes and seconds."""


def single_parts(problem: Problem, placement: Placement) -> list[Part]:
    """Return each task as a part of its own."""
    return [Part(placement[node], (node,)) for node in problem.graph]


def evaluate(problem: Problem, parts: Sequence[Part]) -> tuple[float, Schedule]:
    """Return the value of the problem's objective (less is better), and the schedule from which it is computed.

    For ``latency`` the time of one input through all parts. For ``throughput`` the time between two inputs of a long
    stream: how long the busiest device works on one, slowed down by those that share its cores. For ``energy`` the
    joules of one input, for ``memory`` the peak bytes of the fullest device; see
    `trisect.scheduler.simulation.energy_and_memory`.
    """
    if problem.objective != "throughput":
        schedule = simulate(problem, parts)
        if problem.objective == "energy":
            energy = energy_j(problem, parts)
            return inf if energy is None else energy, schedule
        if problem.objective == "memory":
            return float(max(peak_bytes(problem, parts, schedule).values(), default=0)), schedule
        return schedule.latency_s, schedule
    loads = loads_s(problem, parts)
    busy_s = problem.platform.core_sharing.busy_s(loads)
    period_s = max(busy_s.values(), default=0.0)
    slowdowns = {device: busy_s[device] / load_s for device, load_s in loads.items() if load_s > 0}
    throughput_hz = 1 / period_s if period_s > 0 else 0.0
    return period_s, simulate(problem, parts, items=_STREAM_ITEMS, throughput_hz=throughput_hz, slowdowns=slowdowns)


def simulate(
    problem: Problem,
    parts: Sequence[Part],
    *,
    items: int = 1,
    throughput_hz: float | None = None,
    slowdowns: Mapping[str, float] | None = None,
) -> Schedule:
    """Simulate parts.

    Parameters
    ----------
    parts : sequence of Part
        Every task in exactly one; earlier parts run first where several are ready.
    items : int
        Number of inputs of a stream, all available from the start; parts of different inputs overlap.
    throughput_hz : float, optional
        Of the schedule, where it is known more precisely than from the few items simulated.
    slowdowns : mapping of str to float, optional
        Device id -> factor on the times of its parts.

    Returns
    -------
    Schedule
        Parts are named by their positions: ``"segment 0"``.

    Raises
    ------
    InfeasibleProblem
        When parts wait for each other in a cycle.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> platform = Platform(default_link=LinkCost(0.5))
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, platform)
    >>> simulate(problem, [Part("cpu:a", ("x",)), Part("gpu:b", ("y",))]).latency_s
    2.5
    """
    factors = slowdowns or {}
    durations = [
        time_s * factors.get(part.device, 1.0) for part, time_s in zip(parts, part_times_s(problem, parts), strict=True)
    ]
    links = part_links(problem, parts)
    # In a stream, slowdowns model shared cores; for a single input, devices on the same cores take turns.
    groups = problem.platform.core_sharing.groups if problem.objective != "throughput" else {}
    resources = [groups.get(part.device, part.device) for part in parts]
    starts = start_times(durations, resources, links, items)
    timeline = []
    for k, start_s in enumerate(starts):
        item, i = divmod(k, len(parts))
        end_s = start_s + durations[i]
        timeline.append(Event(f"segment {i}", "compute", parts[i].device, start_s, end_s, item))
        # A tensor that a device reads twice is transferred once.
        sent = {
            (tensor, parts[j].device): (size_bytes, cost_s)
            for j, _, moved in links[i]
            for tensor, size_bytes, cost_s in moved
        }
        for (tensor, device), (size_bytes, cost_s) in sent.items():
            timeline.append(Event(tensor, "transfer", device, end_s, end_s + cost_s, item, size_bytes))
    timeline.sort(key=_ORDER)
    totals = {} if throughput_hz is None else {"throughput_hz": throughput_hz}
    return Timeline.of(timeline, source="predicted", **totals)


def part_links(problem: Problem, parts: Sequence[Part]) -> list[list[PartLink]]:
    """Return, per part, the parts that read from it."""
    part_of = {node: i for i, part in enumerate(parts) for node in part.nodes}
    tensors: list[dict[int, Mapping[str, int]]] = [{} for _ in parts]
    for source, readers in problem.graph.adjacency():
        i = part_of[source]
        for target, data in readers.items():
            j = part_of[target]
            if i != j:
                known = tensors[i].get(j)
                tensors[i][j] = data["tensors"] if known is None else {**known, **data["tensors"]}
    costs: dict[tuple[int, str, str], float] = {}
    links: list[list[PartLink]] = []
    for part, following in zip(parts, tensors, strict=True):
        row: list[PartLink] = []
        for j, moving in following.items():
            moved: list[tuple[str, int, float]] = []
            if part.device != parts[j].device:
                for name, size_bytes in moving.items():
                    key = (size_bytes, part.device, parts[j].device)
                    cost_s = costs.get(key)
                    if cost_s is None:
                        cost_s = costs[key] = problem.transfer_time(*key)
                    if cost_s > 0:
                        moved.append((name, size_bytes, cost_s))
            row.append((j, max([cost for _, _, cost in moved]) if moved else 0.0, moved))
        links.append(row)
    return links


def start_times(
    durations: Sequence[float], resources: Sequence[str], links: Sequence[Sequence[PartLink]], items: int
) -> list[float]:
    """Return when each part starts: part i of an item at ``item * parts + i``.

    Parameters
    ----------
    durations : sequence of float
        Seconds of each part.
    resources : sequence of str
        Device of each part, or the cores that it shares with other devices.
    links : sequence
        Result of `part_links`.

    Raises
    ------
    InfeasibleProblem
        When parts wait for each other in a cycle.
    """
    count = len(durations)
    number = {device: d for d, device in enumerate(dict.fromkeys(resources))}
    on = [number[device] for device in resources]
    feeding = [0] * count
    for following in links:
        for j, _, _ in following:
            feeding[j] += 1
    delays = [[(j, delay_s) for j, delay_s, _ in following] for following in links]
    waiting = feeding * items
    arrivals = [0.0] * (count * items)
    starts = [-1.0] * (count * items)
    # Earlier items and parts run first, which is the order of their numbers.
    queues: list[list[int]] = [[] for _ in number]
    for k, missing in enumerate(waiting):
        if not missing:
            queues[on[k % count]].append(k)
    idle = [True] * len(number)
    events: list[tuple[float, int]] = []  # time, and 2 k when part k is ready, 2 k + 1 when it has finished
    now = 0.0
    finished = 0
    while True:
        for d, queue in enumerate(queues):
            if queue and idle[d]:
                k = heappop(queue)
                idle[d] = False
                starts[k] = now
                heappush(events, (now + durations[k % count], 2 * k + 1))
        if not events:
            break
        now = events[0][0]
        # All events of this instant first, so that a device chooses among all parts that are ready.
        while events and events[0][0] == now:
            k, is_done = divmod(heappop(events)[1], 2)
            i = k % count
            if not is_done:
                heappush(queues[on[i]], k)
                continue
            finished += 1
            idle[on[i]] = True
            base = k - i
            for j, delay_s in delays[i]:
                target = base + j
                arrived = now + delay_s
                if arrived > arrivals[target]:
                    arrivals[target] = arrived
                waiting[target] -= 1
                if not waiting[target]:
                    if arrivals[target] > now:
                        heappush(events, (arrivals[target], 2 * target))
                    else:
                        heappush(queues[on[j]], target)
    if finished < count * items:
        raise InfeasibleProblem(
            "the parts wait for each other in a cycle", remedy="cut the placement into convex segments"
        )
    return starts
