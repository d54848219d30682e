"""A placement played through in time: when each part runs, when its inputs arrive, and how long it all takes.

The rules are those of the runtime: a device runs one part at a time, a part starts when all that it reads has
arrived, a tensor travels once to each device that needs it, and transfers run beside computing.
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
"""A part that reads from another: which, how long it waits for the last tensor, and those that travel, with sizes and
seconds."""


def single_parts(problem: Problem, placement: Placement) -> list[Part]:
    """Each task as a part of its own."""
    return [Part(placement[node], (node,)) for node in problem.graph]


def evaluate(problem: Problem, parts: Sequence[Part]) -> tuple[float, Schedule]:
    """Value of the problem's objective (less is better), and the schedule that it was read from.

    For ``latency`` that is the time of one input through all parts. For ``throughput`` the time between two inputs of a
    long stream: how long the busiest device is at work on one, slowed by those that share its cores. For ``energy`` the
    joules of one input, for ``memory`` the bytes of the fullest device; see
    `trisect.scheduler.simulation.energy_and_memory`.
    """
    if problem.objective != "throughput":
        schedule = simulate(problem, parts)
        if problem.objective == "energy":
            used_j = energy_j(problem, parts)
            return inf if used_j is None else used_j, schedule
        if problem.objective == "memory":
            return float(max(peak_bytes(problem, parts, schedule).values(), default=0)), schedule
        return schedule.latency_s, schedule
    loads = loads_s(problem, parts)
    busy_s = problem.platform.core_sharing.busy_s(loads)
    period_s = max(busy_s.values(), default=0.0)
    slower = {device: busy_s[device] / load_s for device, load_s in loads.items() if load_s > 0}
    throughput_hz = 1 / period_s if period_s > 0 else 0.0
    return period_s, simulate(problem, parts, items=_STREAM_ITEMS, throughput_hz=throughput_hz, slower=slower)


def simulate(
    problem: Problem,
    parts: Sequence[Part],
    *,
    items: int = 1,
    throughput_hz: float | None = None,
    slower: Mapping[str, float] | None = None,
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
    slower : mapping of str to float, optional
        Device id -> how many times as long its parts take as alone.

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
    factors = slower or {}
    durations = [
        time_s * factors.get(part.device, 1.0) for part, time_s in zip(parts, part_times_s(problem, parts), strict=True)
    ]
    links = part_links(problem, parts)
    # In a stream slowdowns say what sharing cores costs; for one input devices on the same cores take turns.
    groups = problem.platform.core_sharing.groups if problem.objective != "throughput" else {}
    resources = [groups.get(part.device, part.device) for part in parts]
    starts = start_times(durations, resources, links, items)
    events = []
    for k, start_s in enumerate(starts):
        item, i = divmod(k, len(parts))
        end_s = start_s + durations[i]
        events.append(Event(f"segment {i}", "compute", parts[i].device, start_s, end_s, item))
        # What goes to a device twice travels once.
        sent = {
            (tensor, parts[j].device): (size_bytes, cost_s)
            for j, _, moved in links[i]
            for tensor, size_bytes, cost_s in moved
        }
        for (tensor, device), (size_bytes, cost_s) in sent.items():
            events.append(Event(tensor, "transfer", device, end_s, end_s + cost_s, item, size_bytes))
    events.sort(key=_ORDER)
    totals = {} if throughput_hz is None else {"throughput_hz": throughput_hz}
    return Timeline.of(events, source="predicted", **totals)


def part_links(problem: Problem, parts: Sequence[Part]) -> list[list[PartLink]]:
    """Per part, the parts that read from it."""
    home = {node: i for i, part in enumerate(parts) for node in part.nodes}
    tensors: list[dict[int, Mapping[str, int]]] = [{} for _ in parts]
    for source, readers in problem.graph.adjacency():
        i = home[source]
        for target, data in readers.items():
            j = home[target]
            if i != j:
                known = tensors[i].get(j)
                tensors[i][j] = data["tensors"] if known is None else {**known, **data["tensors"]}
    costs: dict[tuple[int, str, str], float] = {}
    found: list[list[PartLink]] = []
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
        found.append(row)
    return found


def start_times(
    durations: Sequence[float], where: Sequence[str], links: Sequence[Sequence[PartLink]], items: int
) -> list[float]:
    """When each part begins: part i of an item at ``item * parts + i``.

    Parameters
    ----------
    durations : sequence of float
        Of each part, in seconds.
    where : sequence of str
        Its device, or what it computes on.
    links : sequence
        See `part_links`.
    items : int

    Raises
    ------
    InfeasibleProblem
        When parts wait for each other.
    """
    count = len(durations)
    number = {device: d for d, device in enumerate(dict.fromkeys(where))}
    on = [number[device] for device in where]
    feeding = [0] * count
    for following in links:
        for j, _, _ in following:
            feeding[j] += 1
    delays = [[(j, delay_s) for j, delay_s, _ in following] for following in links]
    waiting = feeding * items
    arrivals = [0.0] * (count * items)
    starts = [-1.0] * (count * items)
    # Of an item and a part the earlier goes first, which the order of their numbers says.
    queues: list[list[int]] = [[] for _ in number]
    for k, missing in enumerate(waiting):
        if not missing:
            queues[on[k % count]].append(k)
    idle = [True] * len(number)
    agenda: list[tuple[float, int]] = []  # when, and of what: 2 k when it is ready, 2 k + 1 when it is done
    now = 0.0
    finished = 0
    while True:
        for d, queue in enumerate(queues):
            if queue and idle[d]:
                k = heappop(queue)
                idle[d] = False
                starts[k] = now
                heappush(agenda, (now + durations[k % count], 2 * k + 1))
        if not agenda:
            break
        now = agenda[0][0]
        # Everything of this instant first, so that a device chooses among all that is ready.
        while agenda and agenda[0][0] == now:
            k, is_done = divmod(heappop(agenda)[1], 2)
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
                        heappush(agenda, (arrivals[target], 2 * target))
                    else:
                        heappush(queues[on[j]], target)
    if finished < count * items:
        raise InfeasibleProblem(
            "the parts wait for each other in a circle", remedy="cut the placement into convex segments"
        )
    return starts
