"""Exact models of tasks on devices, for problems that go by single tasks or by the runtime's segments.

For segments they are relaxations: a run of segments is also a run of single tasks, so what is proven here bounds both.
Costs are rounded down to whole numbers, so that bounds hold.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import floor, inf
from typing import TYPE_CHECKING

from ..problem.problem import Placement, Problem
from ..problem.solution import Proposal
from ..simulation.list_scheduling import TaskLists, by_rank, schedule_in_order, task_lists, upward_ranks
from .linear_program import WORK_PER_S

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntervalVar, IntVar

_STEPS = 10**7
_WORKERS = 8


def solve_task_schedule(problem: Problem, known: Placement, value: float, time_limit_s: float, seed: int) -> Proposal:
    """Look for a better placement than a known one, and prove a bound.

    Parameters
    ----------
    problem : Problem
        Of the conventions ``tasks`` and ``segments``.
    known : mapping of str to str
    value : float
        Of `known`.
    time_limit_s : float
    seed : int
    """
    from ortools.sat.python import cp_model

    lists = task_lists(problem)
    model = cp_model.CpModel()
    # Whole times stay as they are: then the bound is whole too, and proves sooner.
    is_whole = all(t == floor(t) for row in lists.times for t in row if t < inf) and not any(
        any(table) for before in lists.preds for _, table in before
    )
    scale = 1.0 if is_whole or value <= 0 else _STEPS / value
    horizon = floor(value * scale) + 1
    goal = model.new_int_var(0, horizon, "value")
    equal = all(len(set(row)) == 1 for row in lists.times)
    is_free = not any(any(table) for before in lists.preds for _, table in before)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.1, time_limit_s)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = _WORKERS
    if problem.rules.convention == "segments":
        # A plan is the same however busy the machine is: work is counted, not time.
        solver.parameters.interleave_search = True
        solver.parameters.max_deterministic_time = max(0.01, time_limit_s * WORK_PER_S)
    model.minimize(goal)
    if problem.objective == "latency" and equal and is_free:
        begins = _equal_machines(model, lists, goal, horizon, scale)
        hint = schedule_in_order(lists, by_rank(upward_ranks(lists)))
        for variable, start in zip(begins, hint.start, strict=True):
            model.add_hint(variable, min(horizon, floor(start * scale)))
        status = solver.solve(model)
        bound = solver.best_objective_bound / scale
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Proposal(known, bound if status == cp_model.UNKNOWN else 0.0)
        return _machines(lists, [solver.value(s) / scale for s in begins], bound)
    x = _choices(model, lists)
    starts: list[IntVar] = []
    if problem.objective == "latency":
        starts = _precedences(model, lists, x, goal, horizon, scale)
    else:
        _device_loads(problem, model, lists, x, goal, scale)
    number = {device: i for i, device in enumerate(lists.devices)}
    for i, row in enumerate(x):
        for d, variable in enumerate(row):
            model.add_hint(variable, number[known[lists.tasks[i]]] == d)
    status = solver.solve(model)
    bound = max(0.0, solver.best_objective_bound) / scale
    if problem.objective == "latency":
        bound += min((problem.overhead(d) for d in lists.devices), default=0.0) if lists.tasks else 0.0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Proposal(known, bound if status == cp_model.UNKNOWN else 0.0)
    where = [next(d for d, v in enumerate(row) if solver.boolean_value(v)) for row in x]
    if not starts:
        return Proposal(lists.placement(where), bound)
    # Rounded times are not run by: each device takes its tasks in the order found, as early as they can be.
    order = sorted(range(len(starts)), key=lambda i: (solver.value(starts[i]), i))
    found = schedule_in_order(lists, order, fixed=dict(enumerate(where)))
    return Proposal(lists.placement(where), bound, dict(zip(lists.tasks, found.start, strict=True)))


def _equal_machines(model: CpModel, lists: TaskLists, goal: IntVar, horizon: int, scale: float) -> list[IntVar]:
    """Equal devices and nothing to transfer: how many run at once is all that counts."""
    starts, ends, intervals = [], [], []
    for row in lists.times:
        length = floor(row[0] * scale)
        starts.append(model.new_int_var(0, max(0, horizon - length), ""))
        intervals.append(model.new_fixed_size_interval_var(starts[-1], length, ""))
        ends.append(starts[-1] + length)
    for i, before in enumerate(lists.preds):
        for p, _ in before:
            model.add(starts[i] >= ends[p])
        model.add(goal >= ends[i])
    model.add_cumulative(intervals, [1] * len(intervals), len(lists.devices))
    return starts


def _machines(lists: TaskLists, starts: list[float], bound: float) -> Proposal:
    """Devices for tasks whose times are settled: each takes one that is free by then."""
    free = [(0.0, d) for d in range(len(lists.devices))]
    where = [0] * len(starts)
    for i in sorted(range(len(starts)), key=lambda i: (starts[i], starts[i] + lists.times[i][0], i)):
        _, where[i] = heappop(free)
        heappush(free, (starts[i] + lists.times[i][0], where[i]))
    return Proposal(lists.placement(where), bound, dict(zip(lists.tasks, starts, strict=True)))


def _choices(model: CpModel, lists: TaskLists) -> list[list[IntVar]]:
    x = []
    for row in lists.times:
        x.append([model.new_bool_var("") for _ in row])
        model.add_exactly_one(x[-1])
        for time, variable in zip(row, x[-1], strict=True):
            if time == inf:
                model.add(variable == 0)
    return x


def _precedences(
    model: CpModel, lists: TaskLists, x: list[list[IntVar]], goal: IntVar, horizon: int, scale: float
) -> list[IntVar]:
    """When each task begins: one task at a time on each device, each after what it reads has arrived."""
    width = len(lists.devices)
    starts = [model.new_int_var(0, horizon, "") for _ in lists.tasks]
    lanes: list[list[IntervalVar]] = [[] for _ in range(width)]
    ends = []
    for i, row in enumerate(lists.times):
        taken = [(floor(t * scale), x[i][d]) for d, t in enumerate(row) if t < inf]
        ends.append(starts[i] + sum(length * variable for length, variable in taken))
        model.add(goal >= ends[i])
        for d, time in enumerate(row):
            if time < inf:
                length = floor(time * scale)
                lanes[d].append(model.new_optional_fixed_size_interval_var(starts[i], length, x[i][d], ""))
    for i, before in enumerate(lists.preds):
        for p, table in before:
            model.add(starts[i] >= ends[p])
            for a in range(width):
                for b in range(width):
                    delay = floor(table[a * width + b] * scale)
                    if delay > 0:
                        model.add(starts[i] >= ends[p] + delay).only_enforce_if([x[p][a], x[i][b]])
    for lane in lanes:
        model.add_no_overlap(lane)
    return starts


def _device_loads(
    problem: Problem, model: CpModel, lists: TaskLists, x: list[list[IntVar]], goal: IntVar, scale: float
) -> None:
    """What each device computes, and at least one call where it computes at all."""
    for d, device in enumerate(lists.devices):
        used = model.new_bool_var("")
        for row in x:
            model.add_implication(row[d], used)
        load = sum(floor(row[d] * scale) * x[i][d] for i, row in enumerate(lists.times) if row[d] < inf)
        model.add(goal >= load + floor(problem.overhead(device) * scale) * used)
