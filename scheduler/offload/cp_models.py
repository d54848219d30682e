"""The two objectives as models for CP-SAT, which improve the placements of the searches and prove bounds.

Costs are rounded down to integers, so that a bound of the model is a bound of the problem. CP-SAT:
https://developers.google.com/optimization.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import floor, inf
from typing import TYPE_CHECKING

from ..bounds.cp_sat import set_limits, solve_cp
from ..problem.search_time_limit import TimeLimit
from ..problem.task_graph import kahn_order
from .calls.call_latency import finish_times
from .load_annealing import DeviceLoads
from .offload_instance import OffloadInstance

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

_WORKERS = 8
_STEPS = 10**9
"""Integer steps from zero to the known value."""


def improve_loads(
    instance: OffloadInstance,
    where: Sequence[int],
    value: float,
    least: float,
    clock: TimeLimit,
    seconds: float,
    seed: int,
    *,
    contiguous: bool = False,
) -> tuple[list[int], float]:
    """Search for a smaller largest load.

    Parameters
    ----------
    where : sequence of int
        Device of each group in a known placement; its largest load is `value`.
    least : float
        A known bound.
    seconds : float
        Deterministic time of the solver, which passes faster than the clock with two or more cores.
    contiguous : bool
        Whether the devices form a pipeline in the instance's order.

    Returns
    -------
    where : list of int
        The best placement found, or the known one.
    bound : float
        Proven lower bound of the largest load.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    scale = _STEPS / value if value > 0 else 1.0
    x = _assignment(model, instance)
    largest = model.new_int_var(_integer(least, scale), _integer(value, scale) + 1, "largest")
    moved = _moved(model, instance, x)
    for device in range(instance.devices):
        terms = [(_integer(t, scale), x[g][device]) for g, t in enumerate(_times(instance, device)) if t < inf]
        terms += [(_integer(cost, scale), lit) for cost, lit in moved[device]]
        model.add(sum(c * lit for c, lit in terms) <= largest)
    model.minimize(largest)
    if contiguous:
        _pipeline(model, instance, x)
        where = _numbered(instance, where)
    _hint(model, x, where)
    return _solve(model, x, where, scale, clock, seconds, seed)


def _times(instance: OffloadInstance, device: int) -> list[float]:
    return instance.host_time if device < instance.hosts else instance.acc_time


def _integer(value: float, scale: float) -> int:
    return floor(value * scale)


def _assignment(model: CpModel, instance: OffloadInstance) -> list[list[IntVar]]:
    x = [[model.new_bool_var("") for _ in range(instance.devices)] for _ in range(instance.count)]
    for group in range(instance.count):
        model.add_exactly_one(x[group])
        for device in range(instance.devices):
            if _times(instance, device)[group] == inf:
                model.add(x[group][device] == 0)
    if instance.capacity < inf:
        for device in range(instance.hosts, instance.devices):
            held = [floor(s) * x[g][device] for g, s in enumerate(instance.size) if s >= 1]
            model.add(sum(held) <= floor(instance.capacity))
    return x


def _moved(model: CpModel, instance: OffloadInstance, x: list[list[IntVar]]) -> list[list[tuple[float, IntVar]]]:
    """Return, per device, the nets that it may send or fetch: cost, and binary variable."""
    moved: list[list[tuple[float, IntVar]]] = [[] for _ in range(instance.devices)]
    for net in instance.nets:
        for device in range(instance.hosts, instance.devices):
            pays = model.new_bool_var("")
            producer = x[net.producer][device]
            for reader in net.readers:
                inside = x[reader][device]
                model.add_bool_or([pays, ~inside, producer])
                model.add_bool_or([pays, ~producer, inside])
            moved[device].append((net.cost, pays))
    return moved


def _pipeline(model: CpModel, instance: OffloadInstance, x: list[list[IntVar]]) -> None:
    """Add: no group after its readers; equal devices are numbered along the pipeline, hosts and accelerators apart."""
    hosts, devices = instance.hosts, instance.devices
    accelerators = range(hosts, devices)
    # Whether a host comes after an accelerator.
    behind = [{d: model.new_bool_var("") for d in accelerators} for _ in range(hosts)]
    for row in behind:
        for d in range(hosts + 1, devices):
            model.add_implication(row[d], row[d - 1])
    for before, after in pairwise(behind):
        for d in accelerators:
            model.add_implication(before[d], after[d])
    for group, following in enumerate(instance.succs):
        for other in following:
            for kind in (range(hosts), accelerators):
                for d in kind[:-1]:
                    model.add_at_most_one([x[other][d], *(x[group][e] for e in kind if e > d)])
            for h in range(hosts):
                for d in accelerators:
                    model.add_bool_or([~x[group][h], ~x[other][d], ~behind[h][d]])
                    model.add_bool_or([~x[group][d], ~x[other][h], behind[h][d]])


def _numbered(instance: OffloadInstance, where: Sequence[int]) -> list[int]:
    """Return a pipeline's placement with equal devices numbered along it."""
    following: dict[int, set[int]] = {d: set() for d in range(instance.devices)}
    for group, others in enumerate(instance.succs):
        following[where[group]].update(where[other] for other in others if where[other] != where[group])
    order = kahn_order(following)
    hosts = iter(range(instance.hosts))
    accelerators = iter(range(instance.hosts, instance.devices))
    new = {d: next(hosts if d < instance.hosts else accelerators) for d in order}
    return [new[d] for d in where]


def _hint(model: CpModel, x: list[list[IntVar]], where: Sequence[int]) -> None:
    for group, row in enumerate(x):
        for device, variable in enumerate(row):
            model.add_hint(variable, where[group] == device)


def _solve(
    model: CpModel,
    x: list[list[IntVar]],
    where: Sequence[int],
    scale: float,
    clock: TimeLimit,
    seconds: float,
    seed: int,
) -> tuple[list[int], float]:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    set_limits(solver, clock.left_s(), seconds)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = _WORKERS
    solver.parameters.interleave_search = True  # the only deterministic mode with several workers
    status = solve_cp(solver, model)
    if status != cp_model.OPTIMAL:
        clock.is_over()
    bound = max(0.0, solver.best_objective_bound) / scale
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return list(where), bound if status == cp_model.UNKNOWN else 0.0
    return [next(d for d, v in enumerate(row) if solver.boolean_value(v)) for row in x], bound


def improve_calls(
    instance: OffloadInstance,
    where: Sequence[int],
    value: float,
    least: float,
    clock: TimeLimit,
    seconds: float,
    seed: int,
) -> tuple[list[int], float]:
    """Search for a smaller latency; see `improve_loads`."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    scale = _STEPS / value if value > 0 else 1.0
    horizon = _integer(value, scale) + 1
    hosts, devices = instance.hosts, instance.devices
    x = _assignment(model, instance)
    head, tail = critical_path(instance)
    longest = model.new_int_var(min(horizon, _integer(least, scale)), horizon, "latency")

    def moments(least: float = 0.0) -> IntVar:
        return model.new_int_var(min(horizon, _integer(least, scale)), horizon, "")

    # `own`: when a step has finished, its piece running steps one by one. `out`: when others can use its result.
    steps = instance.steps
    own = [moments(early) for early in head]
    out = [moments(early) for early in head]
    start = {d: moments() for d in range(hosts, devices)}
    end = {d: moments() for d in range(hosts, devices)}
    moved = _moved(model, instance, x)
    for d in range(hosts, devices):
        load = [_integer(t, scale) * x[g][d] for g, t in enumerate(instance.acc_time) if t < inf]
        load += [_integer(cost, scale) * pays for cost, pays in moved[d]]
        model.add(end[d] >= start[d] + sum(load))
        if d > hosts:
            model.add(start[d] >= start[d - 1])  # equal accelerators: breaks the symmetry
    for i, step in enumerate(steps):
        at = x[step.group]
        on_host = _integer(step.host_time, scale) if step.host_time < inf else 0
        on_acc = _integer(step.acc_time, scale) if step.acc_time < inf else 0
        taken = on_host * sum(at[:hosts]) + on_acc * sum(at[hosts:])
        model.add(out[i] >= own[i])
        model.add(longest >= own[i] + _integer(tail[i], scale))
        model.add(longest >= out[i])
        model.add(own[i] >= taken)
        for p in step.preds:
            model.add(own[i] >= own[p] + taken)
            for d in range(hosts):
                model.add(own[i] >= out[p] + on_host).only_enforce_if(at[d])
            if steps[p].group != step.group:
                for d in range(hosts, devices):
                    model.add(start[d] >= out[p]).only_enforce_if([at[d], ~x[steps[p].group][d]])
        for d in range(hosts, devices):
            model.add(out[i] >= end[d]).only_enforce_if(at[d])
            model.add(own[i] >= start[d] + on_acc).only_enforce_if(at[d])
    model.minimize(longest)
    order = sorted(range(hosts, devices), key=lambda d: _begin(instance, where, d))
    renamed = {d: hosts + i for i, d in enumerate(order)}
    _hint(model, x, [renamed.get(d, d) for d in where])
    return _solve(model, x, where, scale, clock, seconds, seed)


def critical_path(instance: OffloadInstance) -> tuple[list[float], list[float]]:
    """Return, per step, the least time from the start until it has finished, and the least from then to the end."""
    steps = instance.steps
    least = [min(step.host_time, step.acc_time) for step in steps]
    head = [0.0] * len(steps)
    tail = [0.0] * len(steps)
    for i, step in enumerate(steps):
        head[i] = least[i] + max((head[p] for p in step.preds), default=0.0)
    for i in reversed(range(len(steps))):
        tail[i] = max((tail[j] + least[j] for j in steps[i].succs), default=0.0)
    return head, tail


def _begin(instance: OffloadInstance, where: Sequence[int], device: int) -> float:
    load = DeviceLoads(instance, where).load
    finish = finish_times(instance, where, load)
    inside = [i for i, step in enumerate(instance.steps) if where[step.group] == device]
    return inf if finish is None or not inside else finish[inside[0]] - load[device]
