"""Exact models of tasks on devices for CP-SAT, for the conventions ``tasks`` and ``segments``.

For segments they are relaxations: a schedule of segments is also a schedule of single tasks, so a bound of one is a
bound of the other. Costs are rounded down to integers, so that bounds hold. CP-SAT:
https://developers.google.com/optimization.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import floor, inf
from typing import TYPE_CHECKING

from ..problem.problem import Placement, Problem
from ..problem.solution import Proposal
from ..simulation.list_scheduling import TaskLists, by_rank, schedule_in_order, task_lists, upward_ranks
from .cp_sat import set_limits, solve_cp
from .linear_program import WORK_PER_S

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntervalVar, IntVar

_STEPS = 10**7
_WORKERS = 8


def solve_task_schedule(problem: Problem, known: Placement, value: float, time_limit_s: float, seed: int) -> Proposal:
    """Search for a better placement than a known one, and prove a bound.

    Parameters
    ----------
    problem : Problem
        With the convention ``tasks`` or ``segments``.
    value : float
        Value of `known`.
    """
    from ortools.sat.python import cp_model

    lists = task_lists(problem)
    model = cp_model.CpModel()
    # Integer times are not scaled: then the bound is an integer too, and the proof is faster.
    is_integer = all(t == floor(t) for row in lists.times for t in row if t < inf) and not any(
        any(table) for before in lists.preds for _, table in before
    )
    scale = 1.0 if is_integer or value <= 0 else _STEPS / value
    horizon = floor(value * scale) + 1
    goal = model.new_int_var(0, horizon, "value")
    equal = all(len(set(row)) == 1 for row in lists.times)
    has_no_transfers = not any(any(table) for before in lists.preds for _, table in before)
    solver = cp_model.CpSolver()
    is_plan = problem.rules.convention == "segments"
    # A plan must not depend on the load of the machine: deterministic work is limited, not only time.
    set_limits(solver, time_limit_s, time_limit_s * WORK_PER_S if is_plan else None)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = _WORKERS
    solver.parameters.interleave_search = is_plan
    model.minimize(goal)
    if problem.objective == "latency" and equal and has_no_transfers:
        begins = _equal_machines(model, lists, goal, horizon, scale)
        hint = schedule_in_order(lists, by_rank(upward_ranks(lists)))
        for variable, start in zip(begins, hint.start, strict=True):
            model.add_hint(variable, min(horizon, floor(start * scale)))
        status = solve_cp(solver, model)
        bound = solver.best_objective_bound / scale
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Proposal(known, bound if status == cp_model.UNKNOWN else 0.0)
        return _assign_machines(lists, [solver.value(s) / scale for s in begins], bound)
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
    status = solve_cp(solver, model)
    bound = max(0.0, solver.best_objective_bound) / scale
    if problem.objective == "latency":
        bound += min((problem.overhead(d) for d in lists.devices), default=0.0) if lists.tasks else 0.0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Proposal(known, bound if status == cp_model.UNKNOWN else 0.0)
    where = [next(d for d, v in enumerate(row) if solver.boolean_value(v)) for row in x]
    if not starts:
        return Proposal(lists.placement(where), bound)
    # The rounded times give only the order: each device runs its tasks in that order, as early as possible.
    order = sorted(range(len(starts)), key=lambda i: (solver.value(starts[i]), i))
    schedule = schedule_in_order(lists, order, fixed=dict(enumerate(where)))
    return Proposal(lists.placement(where), bound, lists.starts_s(schedule))


def _equal_machines(model: CpModel, lists: TaskLists, goal: IntVar, horizon: int, scale: float) -> list[IntVar]:
    """Model equal devices without transfers: only the number of tasks running at once is limited."""
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


def _assign_machines(lists: TaskLists, starts: list[float], bound: float) -> Proposal:
    """Assign devices to tasks with fixed start times: each gets the one that is free first."""
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
    """Model the start of each task: one task at a time on each device, each after its inputs have arrived."""
    width = len(lists.devices)
    starts = [model.new_int_var(0, horizon, "") for _ in lists.tasks]
    device_intervals: list[list[IntervalVar]] = [[] for _ in range(width)]
    ends = []
    for i, row in enumerate(lists.times):
        lengths = [(floor(t * scale), x[i][d]) for d, t in enumerate(row) if t < inf]
        ends.append(starts[i] + sum(length * variable for length, variable in lengths))
        model.add(goal >= ends[i])
        for d, time in enumerate(row):
            if time < inf:
                length = floor(time * scale)
                device_intervals[d].append(model.new_optional_fixed_size_interval_var(starts[i], length, x[i][d], ""))
    for i, before in enumerate(lists.preds):
        for p, table in before:
            model.add(starts[i] >= ends[p])
            for a in range(width):
                for b in range(width):
                    delay = floor(table[a * width + b] * scale)
                    if delay > 0:
                        model.add(starts[i] >= ends[p] + delay).only_enforce_if([x[p][a], x[i][b]])
    for intervals in device_intervals:
        model.add_no_overlap(intervals)
    return starts


def _device_loads(
    problem: Problem, model: CpModel, lists: TaskLists, x: list[list[IntVar]], goal: IntVar, scale: float
) -> None:
    """Model the load of each device: its tasks, and at least one call if it has any."""
    for d, device in enumerate(lists.devices):
        used = model.new_bool_var("")
        for row in x:
            model.add_implication(row[d], used)
        load = sum(floor(row[d] * scale) * x[i][d] for i, row in enumerate(lists.times) if row[d] < inf)
        model.add(goal >= load + floor(problem.overhead(device) * scale) * used)
