"""List scheduling on plain lists: a problem as numbers, ranks of its tasks, and one pass that places them.

Users see a networkx graph; traversing it costs ten times as much as traversing lists, which on 100,000 tasks is the
difference between seconds and half a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import inf

from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.plans.timeline import Event, Schedule, Timeline

from ..problem.problem import Placement, Problem
from ..problem.task_graph import topological_order


@dataclass(frozen=True)
class ListSchedule:
    """The result of list scheduling: device and start of each task, by number."""

    where: list[int]
    start: list[float]
    makespan: float


@dataclass(frozen=True)
class TaskLists:
    """A problem as plain lists; tasks in a topological order, devices by position."""

    tasks: list[str]
    devices: list[str]
    times: list[tuple[float, ...]]
    preds: list[list[tuple[int, tuple[float, ...]]]]
    """Per task its predecessors, each with the transfer times, boundary costs included: from device i to j at
    ``i * devices + j``."""
    succs: list[list[tuple[int, float]]]
    """Per task its successors, each with the mean transfer time."""

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Task -> its number."""
        return {task: i for i, task in enumerate(self.tasks)}

    def placement(self, where: Sequence[int]) -> dict[str, str]:
        """Return task -> device id."""
        return {task: self.devices[device] for task, device in zip(self.tasks, where, strict=True)}

    def starts_s(self, schedule: ListSchedule) -> dict[str, float]:
        """Return task -> start."""
        return dict(zip(self.tasks, schedule.start, strict=True))


def task_lists(problem: Problem) -> TaskLists:
    """Convert a problem into lists."""
    graph = problem.graph
    tasks = topological_order(graph)
    successors = dict(graph.adjacency())
    number = {task: i for i, task in enumerate(tasks)}
    ids = problem.device_ids
    costs: dict[int, tuple[tuple[float, ...], float]] = {}
    pairs = len(ids) * (len(ids) - 1)
    nothing = (0.0,) * len(ids) ** 2, 0.0

    def cost(size_bytes: int) -> tuple[tuple[float, ...], float]:
        known = costs.get(size_bytes)
        if known is None:
            table = tuple(problem.transfer_time(size_bytes, src, dst) for src in ids for dst in ids)
            known = costs[size_bytes] = (table, sum(table) / pairs if pairs else 0.0)
        return known

    def with_boundaries(tensors: Mapping[str, int], table: tuple[float, ...]) -> tuple[tuple[float, ...], float]:
        crossed = [cost for name in tensors if (cost := problem.boundary_costs.get(name)) is not None]
        width = range(len(ids))
        more = (
            sum((sides := c.between((i, j))).leave_s[i] + sides.enter_s[j] for c in crossed) if i != j else 0.0
            for i in width
            for j in width
        )
        longer = tuple(time_s + more_s for time_s, more_s in zip(table, more, strict=True))
        return longer, sum(longer) / pairs if pairs else 0.0

    preds: list[list[tuple[int, tuple[float, ...]]]] = [[] for _ in tasks]
    succs: list[list[tuple[int, float]]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        for other, data in successors[task].items():
            tensors = data["tensors"]
            # Tensors are transferred in parallel: the largest arrives last.
            table, mean = cost(max(tensors.values())) if tensors else nothing
            if problem.boundary_costs and tensors:
                table, mean = with_boundaries(tensors, table)
            j = number[other]
            preds[j].append((i, table))
            succs[i].append((j, mean))
    return TaskLists(tasks, ids, [problem.times_s[task] for task in tasks], preds, succs)


def mean_times(lists: TaskLists) -> list[float]:
    """Return the mean time of each task over the devices that can run it."""
    means = []
    for times in lists.times:
        finite = [t for t in times if t < inf]
        means.append(sum(finite) / len(finite))
    return means


def upward_ranks(lists: TaskLists) -> list[float]:
    """Return the mean length of the longest path from each task to the end, its own time and transfers included."""
    ranks = mean_times(lists)
    for i in range(len(ranks) - 1, -1, -1):
        longest = 0.0
        for j, mean in lists.succs[i]:
            if ranks[j] + mean > longest:
                longest = ranks[j] + mean
        ranks[i] += longest
    return ranks


def by_rank(ranks: Sequence[float]) -> list[int]:
    """Return the tasks by falling rank; equal ones in topological order, so that the result is one too."""
    return sorted(range(len(ranks)), key=lambda i: -ranks[i])


def priority_order(lists: TaskLists, priorities: Sequence[float]) -> list[int]:
    """Return a topological order in which, of the tasks whose predecessors are done, the highest priority is next."""
    missing = [len(before) for before in lists.preds]
    ready = [(-priorities[i], i) for i, count in enumerate(missing) if not count]
    heapify(ready)
    order = []
    while ready:
        _, i = heappop(ready)
        order.append(i)
        for j, _ in lists.succs[i]:
            missing[j] -= 1
            if not missing[j]:
                heappush(ready, (-priorities[j], j))
    return order


def schedule_in_order(
    lists: TaskLists,
    order: Sequence[int],
    *,
    bias: Sequence[Sequence[float]] | None = None,
    fixed: Mapping[int, int] | None = None,
) -> ListSchedule:
    """Place tasks in an order, each on the device where it finishes first, after the tasks already there.

    Parameters
    ----------
    order : sequence of int
        A topological order.
    bias : sequence, optional
        Per task and device, seconds added to the finish time when devices are compared.
    fixed : mapping, optional
        Task -> device, where there is no choice.

    Raises
    ------
    InfeasibleProblem
        When no device can run a task.
    """
    width = len(lists.devices)
    count = len(lists.tasks)
    free = [0.0] * width
    finish = [0.0] * count
    start = [0.0] * count
    where = [0] * count
    devices = range(width)
    for i in order:
        times = lists.times[i]
        best, best_key, best_begin = -1, inf, 0.0
        before = lists.preds[i]
        for d in devices if fixed is None or i not in fixed else (fixed[i],):
            if times[d] == inf:
                continue
            begin = free[d]
            for p, table in before:
                arrival = finish[p] + table[where[p] * width + d]
                if arrival > begin:
                    begin = arrival
            key = begin + times[d]
            if bias is not None:
                key += bias[i][d]
            if key < best_key:
                best, best_key, best_begin = d, key, begin
        if best < 0:
            raise InfeasibleProblem(f"no device can run {lists.tasks[i]!r}", remedy="add a device that can")
        where[i], start[i] = best, best_begin
        finish[i] = free[best] = best_begin + times[best]
    return ListSchedule(where, start, max(finish, default=0.0))


def list_schedule_starts(problem: Problem, placement: Placement) -> dict[str, float]:
    """Return when each task of a placement begins if each device runs its tasks by falling rank."""
    lists = task_lists(problem)
    number = {device: i for i, device in enumerate(lists.devices)}
    fixed = {i: number[placement[task]] for i, task in enumerate(lists.tasks)}
    return lists.starts_s(schedule_in_order(lists, by_rank(upward_ranks(lists)), fixed=fixed))


def task_schedule(problem: Problem, placement: Placement, starts_s: Mapping[str, float]) -> Schedule:
    """Return the timeline of single tasks with given start times; parts are numbered as by `single_parts`."""
    events = []
    for i, task in enumerate(problem.graph):
        begin = starts_s[task]
        events.append(
            Event(f"segment {i}", "compute", placement[task], begin, begin + problem.time(task, placement[task]))
        )
    events.sort(key=lambda e: (e.start_s, e.end_s, e.name))
    return Timeline.of(events, source="predicted")
