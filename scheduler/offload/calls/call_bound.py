"""Raises the bound of a path by the least load of each call that its best execution uses.

A call that runs an interval of the path may run tasks beside the path as well. Each of them occupies memory, and each
left out is paid for at the boundary. The least load over all sets of tasks that fit is a minimum cut with a knapsack
constraint, for CP-SAT. Only calls of the currently best execution are solved, until it consists of solved ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...bounds.cp_sat import set_limits
from ...problem.search_time_limit import TimeLimit
from ..offload_instance import OffloadInstance
from .call_latency import latency
from .path_bound import PathExecution, positions

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import IntVar

_STEPS = 10**10
"""Integer steps from zero to the known value."""
_SIZE_STEPS = 1 << 40
"""Integer steps from zero to the free memory, where that has more bytes: sums have to fit into 64 bits."""
_MAX_DETERMINISTIC_TIME = 0.2
"""For one call; the graphs of the bench take a thousandth of it."""


@dataclass(frozen=True)
class PathCallBound:
    """A bound of the latency, and the best placement that its calls gave."""

    bound: float
    value: float
    where: list[int]


def raise_path_bound(
    instance: OffloadInstance, path: Sequence[int], known: tuple[float, list[int]], clock: TimeLimit, max_calls: int
) -> PathCallBound:
    """Return the bound of a path after solving up to so many calls; any time is a good time to stop.

    Parameters
    ----------
    path : sequence of int
        Steps, each a predecessor of the next.
    known : tuple of float and list of int
        The latency of a known placement, and the placement.
    max_calls : int
        Number of calls to solve.

    Examples
    --------
    The first task feeds two others, which the last one reads. The path runs past the third task, which takes no time
    on the host; the call of the last two tasks has no memory for it, so that its result has to be fetched.

    >>> from trisect.scheduler.offload.offload_instance import Net, OffloadStep
    >>> from trisect.scheduler.offload.calls.path_bound import best_path
    >>> steps = (OffloadStep(0, 9.0, 1.0, (), (1, 2)), OffloadStep(1, 9.0, 2.0, (0,), (3,)),
    ...          OffloadStep(2, 0.0, 1.0, (0,), (3,)), OffloadStep(3, 9.0, 1.0, (1, 2), ()))
    >>> nets = [Net(0, (1, 2), 1.0), Net(1, (3,), 2.0), Net(2, (3,), 2.0)]
    >>> instance = OffloadInstance((("a",), ("b",), ("c",), ("d",)), [9.0, 9.0, 0.0, 9.0], [1.0, 2.0, 1.0, 1.0],
    ...     [4.0] * 4, nets, [[], [0], [0], [1, 2]], [[1, 2], [3], [3], []], 1, 2, 8.0, ("cpu:0", "npu:0", "npu:1"),
    ...     steps)
    >>> bound, path = best_path(instance)
    >>> raised = raise_path_bound(instance, path, (27.0, [0] * 4), TimeLimit(5.0), 9)
    >>> bound, round(raised.bound, 6), raised.value, raised.where
    (6.0, 8.0, 8.0, [1, 2, 0, 2])
    """
    value, where = known
    execution = PathExecution(instance, path)
    least = _LeastLoads(instance, path, value)
    pieces: dict[tuple[int, int], Collection[int]] = {}
    bound, calls = execution.least_time()
    while len(pieces) < max_calls and bound < value and not clock.is_over():
        unsolved = [call for call in calls if call not in pieces]
        if not unsolved:
            break
        for first, end in unsolved:
            load, pieces[first, end] = least.of_call(first, end, clock)
            row = execution.loads[first]
            row[end - first - 1] = max(row[end - first - 1], load)
        # Everything that is in none of the calls is on the host: often no bad placement.
        tried = [0] * instance.count
        for device, call in enumerate(reversed(calls), instance.hosts):
            for group in pieces[call]:
                tried[group] = tried[group] or device
        reached = latency(instance, tried) if instance.hosts else inf
        if reached < value:
            value, where = reached, tried
        bound, calls = execution.least_time()
    return PathCallBound(min(bound, value), value, where)


class _LeastLoads:
    """The least loads of calls that run an interval of a path and no other step of it."""

    def __init__(self, instance: OffloadInstance, path: Sequence[int], value: float) -> None:
        self.instance = instance
        self.scale = _STEPS / value if 0 < value < inf else 1.0
        after, before = positions(instance, path)
        self.behind = np.array(after, dtype=np.int64)
        self.ahead = np.array(before, dtype=np.int64)
        self.group = np.array([step.group for step in instance.steps], dtype=np.int64)
        self.host_only = np.array([t == inf for t in instance.acc_time])
        self.pins = [(net.producer, *net.readers) for net in instance.nets]
        self.flat_pins = np.array([g for pins in self.pins for g in pins], dtype=np.int64)
        self.begins = np.cumsum([0, *map(len, self.pins)])[:-1].astype(np.int64)
        self.costs = np.array([net.cost for net in instance.nets])

    def of_call(self, first: int, end: int, clock: TimeLimit) -> tuple[float, Collection[int]]:
        """Return a bound of the load, infinite where no such call is possible, and the groups of a good one."""
        from ortools.sat.python import cp_model

        instance, scale = self.instance, self.scale
        inside = np.zeros(instance.count, dtype=bool)
        inside[self.group[(self.behind >= first) & (self.ahead < end)]] = True
        # A task before a step of the path that comes before the call, or after one that comes after it, would have
        # the call wait for itself.
        outside = self.host_only.copy()
        outside[self.group[(self.ahead < first) | (self.behind >= end)]] = True
        forced = [int(g) for g in np.flatnonzero(inside)]
        free = instance.capacity * (1 + 1e-12) - sum(instance.size[g] for g in forced)
        if (inside & outside).any() or free < 0:
            return inf, ()
        model = cp_model.CpModel()
        chosen = {int(g): model.new_bool_var("") for g in np.flatnonzero(~inside & ~outside)}
        some_in, some_out = self._of_nets(inside), self._of_nets(outside)
        load = sum(instance.acc_time[g] for g in forced) + float(self.costs[some_in & some_out].sum())
        terms = [(_steps(instance.acc_time[g] * scale, _STEPS), variable) for g, variable in chosen.items()]
        for n in np.flatnonzero(~(some_in & some_out) & self._of_nets(~inside & ~outside)):
            options: list[IntVar] = [chosen[g] for g in self.pins[n] if g in chosen]
            cut = model.new_bool_var("")
            for one, other in zip(options, [*options[1:], options[0]], strict=True):
                if some_in[n]:
                    model.add_bool_or([one, cut])
                elif some_out[n]:
                    model.add_bool_or([~one, cut])
                elif one is not other:
                    model.add_bool_or([~one, other, cut])
            terms.append((_steps(instance.nets[n].cost * scale, _STEPS), cut))
        if not terms:
            return load, forced
        if free < inf:
            unit = max(1.0, free / _SIZE_STEPS)
            limit = floor(free / unit)
            model.add(sum(_steps(instance.size[g] / unit, limit) * v for g, v in chosen.items()) <= limit)
        model.minimize(sum(cost * variable for cost, variable in terms))
        solver = cp_model.CpSolver()
        set_limits(solver, clock.left_s(), _MAX_DETERMINISTIC_TIME)
        solver.parameters.num_workers = 1
        solver.parameters.linearization_level = 2
        # Models of some milliseconds: without what takes longer than it saves.
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.symmetry_level = 0
        solver.parameters.catch_sigint_signal = False  # Ctrl-C is seen between two of them
        status = solver.solve(model)
        has_solution = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        piece = [*forced, *(g for g, variable in chosen.items() if has_solution and solver.boolean_value(variable))]
        return load + max(0.0, solver.best_objective_bound) / scale, piece

    def _of_nets(self, groups: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which nets have one of the groups."""
        if not len(self.begins):
            return np.zeros(0, dtype=bool)
        return np.logical_or.reduceat(groups[self.flat_pins], self.begins)


def _steps(amount: float, limit: int) -> int:
    """Return an amount in whole steps; all amounts above a limit are equally too much, and may not fit into 64 bits."""
    return floor(min(amount, limit + 1.0))
