"""A lower bound of the largest load that includes transfers: the least load of one accelerator with its share of work.

Hosts absorb only so much below a known value, so one of the accelerators gets at least its share of the rest. Whatever
part of the graph that is, it has a boundary unless it is all of it, and tensors at the boundary are paid. The least
load is a minimum cut with a minimum size, for CP-SAT. Tensors that cost more than the difference between the known
value and that share are never cut, and what they connect is contracted first.
"""

from __future__ import annotations

from collections import defaultdict
from math import ceil, floor, inf
from typing import TYPE_CHECKING

from ..bounds.cp_sat import set_limits, solve_cp
from ..problem.disjoint_sets import DisjointSets
from ..problem.search_time_limit import TimeLimit
from .offload_instance import OffloadInstance
from .packing_bound import absorbed_by_host

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

_STEPS = 10**7
"""Integer steps from zero to the known value."""
_ROUNDS = 10
_TOLERANCE = 1e-3


def device_bound(
    instance: OffloadInstance, least: float, value: float, clock: TimeLimit, seconds: float, seed: int
) -> float:
    """Return a bound of the largest load, by bisection: a low load is refuted faster, as less can be cut below it.

    Parameters
    ----------
    least : float
        A known bound.
    value : float
        The largest load of a known placement.
    seconds : float
        Deterministic time of the solver.

    Examples
    --------
    Four equal tasks in a chain, two accelerators: one of them has two tasks, and a boundary.

    >>> from trisect.scheduler.offload.offload_instance import Net
    >>> chain = [Net(i, (i + 1,), 0.5) for i in range(3)]
    >>> instance = OffloadInstance(
    ...     (("a",),) * 4, [99.0] * 4, [1.0] * 4, [0.0] * 4, chain, [[]] * 4, [[]] * 4, 1, 2, 1e9, ()
    ... )
    >>> round(device_bound(instance, 2.0, 3.0, TimeLimit(5.0), 1.0, 0), 5)
    2.5
    """
    high = value
    for _ in range(_ROUNDS):
        if high - least <= _TOLERANCE * value or clock.is_over():
            break
        middle = (least + high) / 2
        proven = least_device_load(instance, middle, clock, seconds / _ROUNDS, seed)
        least = max(least, proven)
        if proven < middle:
            high = middle
    return least


def least_device_load(instance: OffloadInstance, value: float, clock: TimeLimit, seconds: float, seed: int) -> float:
    """Return a bound of the largest load of placements up to a value; the value where there are none."""
    from ortools.sat.python import cp_model

    if not instance.accelerators or value <= 0:
        return 0.0
    work = [t if t < inf else 0.0 for t in instance.acc_time]
    share = (sum(work) - instance.hosts * absorbed_by_host(instance, value)) / instance.accelerators
    if share <= 0:
        return 0.0
    pieces = _pieces(instance, value - share)
    number = {group: i for i, groups in enumerate(pieces) for group in groups}
    scale = _STEPS / value
    model = cp_model.CpModel()
    inside = [model.new_bool_var("") for _ in pieces]
    for groups, chosen in zip(pieces, inside, strict=True):
        if any(instance.acc_time[g] == inf for g in groups):
            model.add(chosen == 0)
    sums = [sum(work[g] for g in groups) for groups in pieces]
    # Rounded so that every real solution remains one.
    model.add(sum(ceil(w * scale) * x for w, x in zip(sums, inside, strict=True)) >= floor(share * scale))
    if instance.capacity < inf:
        sizes = [floor(sum(instance.size[g] for g in groups)) for groups in pieces]
        model.add(sum(s * x for s, x in zip(sizes, inside, strict=True)) <= floor(instance.capacity))
    terms = [*zip(sums, inside, strict=True), *_cuts(model, instance, number, inside)]
    largest = model.new_int_var(0, _STEPS, "load")
    model.add(largest >= sum(floor(cost * scale) * variable for cost, variable in terms))
    model.minimize(largest)
    solver = cp_model.CpSolver()
    set_limits(solver, clock.left_s(), seconds)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = 1  # it alone refutes a load within a second, of graphs of 400 groups
    solver.parameters.linearization_level = 2
    status = solve_cp(solver, model)
    if status == cp_model.INFEASIBLE:
        return value
    return max(0.0, solver.best_objective_bound) / scale


def _pieces(instance: OffloadInstance, max_cost: float) -> list[list[int]]:
    """Return the groups that nets connect which cost more than that; all of them are on the device, or none."""
    sets = DisjointSets(range(instance.count))
    for net in instance.nets:
        if net.cost > max_cost:
            for reader in net.readers:
                sets.merge(net.producer, reader)
    return list(sets.members().values())


def _cuts(
    model: CpModel, instance: OffloadInstance, number: dict[int, int], inside: list[IntVar]
) -> list[tuple[float, IntVar]]:
    """Return costs and variables of the nets that the device pays: some of its groups are inside, others are not."""
    costs: dict[frozenset[int], float] = defaultdict(float)
    for net in instance.nets:
        costs[frozenset(number[g] for g in (net.producer, *net.readers))] += net.cost
    cuts = []
    for pieces, cost in costs.items():
        if len(pieces) > 1 and cost > 0:
            cut = model.new_bool_var("")
            ring = sorted(pieces)
            for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
                model.add_bool_or([~inside[one], inside[other], cut])
            cuts.append((cost, cut))
    return cuts
