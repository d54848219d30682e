"""List scheduling on plain lists: a Problem as numbers, ranks of its tasks, and one pass that places them.

A networkx graph is what users see; walking it costs ten times what walking lists does, and on 100,000 tasks that is the
difference between seconds and half a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.plans.timeline import Event, Schedule, Timeline

from ..problem.problem import Placement, Problem
from ..problem.task_graph import topological_order


@dataclass(frozen=True)
class TaskLists:
    """A problem as plain lists; tasks in a topological order, devices by position."""

    tasks: list[str]
    devices: list[str]
    times: list[tuple[float, ...]]
    preds: list[list[tuple[int, tuple[float, ...]]]]
    """Per task its predecessors, each with what the transfer takes, borders included: from device i to j at
    ``i * devices + j``."""
    succs: list[list[tuple[int, float]]]
    """Per task its successors, each with the mean time of a transfer."""

    def placement(self, where: Sequence[int]) -> dict[str, str]:
        """Task -> device id."""
        return {task: self.devices[device] for task, device in zip(self.tasks, where, strict=True)}


def task_lists(problem: Problem) -> TaskLists:
    """Convert a problem, once."""
    graph = problem.graph
    tasks = topological_order(graph)
    following = dict(graph.adjacency())
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

    def with_borders(tensors: Mapping[str, int], table: tuple[float, ...]) -> tuple[tuple[float, ...], float]:
        crossed = [border for name in tensors if (border := problem.boundary_costs.get(name)) is not None]
        width = range(len(ids))
        more = (sum(b.leave_s[i] + b.enter_s[j] for b in crossed) if i != j else 0.0 for i in width for j in width)
        longer = tuple(time_s + more_s for time_s, more_s in zip(table, more, strict=True))
        return longer, sum(longer) / pairs if pairs else 0.0

    preds: list[list[tuple[int, tuple[float, ...]]]] = [[] for _ in tasks]
    succs: list[list[tuple[int, float]]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        for other, data in following[task].items():
            tensors = data["tensors"]
            # Tensors travel side by side: the largest is the last to arrive.
            table, mean = cost(max(tensors.values())) if tensors else nothing
            if problem.boundary_costs and tensors:
                table, mean = with_borders(tensors, table)
            j = number[other]
            preds[j].append((i, table))
            succs[i].append((j, mean))
    return TaskLists(tasks, ids, [problem.times_s[task] for task in tasks], preds, succs)


def mean_times(lists: TaskLists) -> list[float]:
    """Mean time of each task over the devices that can run it."""
    found = []
    for times in lists.times:
        finite = [t for t in times if t < inf]
        found.append(sum(finite) / len(finite))
    return found


def upward_ranks(lists: TaskLists) -> list[float]:
    """Mean length of the longest path from each task to the end, its own time and transfers included."""
    ranks = mean_times(lists)
    for i in range(len(ranks) - 1, -1, -1):
        longest = 0.0
        for j, mean in lists.succs[i]:
            if ranks[j] + mean > longest:
                longest = ranks[j] + mean
        ranks[i] += longest
    return ranks


def by_rank(ranks: Sequence[float]) -> list[int]:
    """Tasks by falling rank; equal ones in topological order, so that the order is one too."""
    return sorted(range(len(ranks)), key=lambda i: -ranks[i])


@dataclass(frozen=True)
class Assignment:
    """What list scheduling gives: device and start of each task, by number."""

    where: list[int]
    start: list[float]
    makespan: float


def assign(
    lists: TaskLists,
    order: Sequence[int],
    *,
    bias: Sequence[Sequence[float]] | None = None,
    fixed: Mapping[int, int] | None = None,
) -> Assignment:
    """Place tasks in an order, each where it is finished first, behind what is there already.

    Parameters
    ----------
    lists : TaskLists
    order : sequence of int
        A topological order.
    bias : sequence, optional
        Per task and device, what is added to the finish when devices are compared.
    fixed : mapping, optional
        Task -> device, where there is no choice.
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
                arrives = finish[p] + table[where[p] * width + d]
                if arrives > begin:
                    begin = arrives
            key = begin + times[d]
            if bias is not None:
                key += bias[i][d]
            if key < best_key:
                best, best_key, best_begin = d, key, begin
        if best < 0:
            raise InfeasibleProblem(f"no device can run {lists.tasks[i]!r}")
        where[i], start[i] = best, best_begin
        finish[i] = free[best] = best_begin + times[best]
    return Assignment(where, start, max(finish, default=0.0))


def starts_of(problem: Problem, placement: Placement) -> dict[str, float]:
    """When each task of a placement begins, if each device takes its tasks by falling rank."""
    lists = task_lists(problem)
    number = {device: i for i, device in enumerate(lists.devices)}
    fixed = {i: number[placement[task]] for i, task in enumerate(lists.tasks)}
    found = assign(lists, by_rank(upward_ranks(lists)), fixed=fixed)
    return dict(zip(lists.tasks, found.start, strict=True))


def schedule_of(problem: Problem, placement: Placement, starts_s: Mapping[str, float]) -> Schedule:
    """The timeline of single tasks that begin at given times; parts are numbered as `single_parts` does."""
    events = []
    for i, task in enumerate(problem.graph):
        begin = starts_s[task]
        events.append(
            Event(f"segment {i}", "compute", placement[task], begin, begin + problem.time(task, placement[task]))
        )
    events.sort(key=lambda e: (e.start_s, e.end_s, e.name))
    return Timeline.of(events, source="predicted")
