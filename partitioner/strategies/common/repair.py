"""Repair of infeasible placements: changes what a heuristic proposes where it violates a rule of its problem.

Colocated tasks go where their group costs least; tasks that exceed a device's memory move, those that free most for
their cost first; with too many segments, the tasks are placed again along an order by a dynamic programme over the
positions of the cuts, O(tasks x devices^2 x segments).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from math import inf

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.offload.offload_repair import repair_offload
from trisect.scheduler.problem.problem import Placement, Problem, crossing_time_s
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import topological_order
from trisect.scheduler.simulation.energy_and_memory import may_overflow
from trisect.scheduler.simulation.list_scheduling import ListSchedule, TaskLists
from trisect.scheduler.simulation.validate import Violation

from ...segments.convex_cut import cut
from .placement_value import evaluate_proposal

_REMEDY = "use exact or auto, or loosen a constraint"
_MAX_GROUP_PLACEMENTS = 64
"""Placements of colocated groups that are tried when the number of segments is limited."""


def repair(problem: Problem, placement: Placement) -> dict[str, str]:
    """Return the placement in the graph's order, changed where it would violate a rule of its problem.

    Raises
    ------
    InfeasibleProblem
        When these heuristics find nothing that satisfies all rules.
    """
    if problem.rules.convention == "offload":
        return repair_offload(problem, placement)
    colocated = colocate(problem, {task: placement[task] for task in problem.graph})
    if problem.rules.convention == "tasks" or not _violations(problem, colocated):
        return colocated
    for candidate in _candidates(problem, colocated):
        if not _violations(problem, candidate):
            return candidate
    raise InfeasibleProblem(
        f"no similar placement satisfies all rules: {_violations(problem, colocated)[0].message}", remedy=_REMEDY
    )


def repaired_proposal(problem: Problem, lists: TaskLists, schedule: ListSchedule) -> Proposal:
    """Return the proposal of a list schedule, with its times where the convention is single tasks."""
    placement = lists.placement(schedule.where)
    if problem.rules.convention == "tasks":
        return Proposal(placement, starts_s=lists.starts_s(schedule))
    return Proposal(repair(problem, placement))


def colocate(problem: Problem, placement: Placement) -> dict[str, str]:
    """Return the placement with each colocated group on the device where the group costs least."""
    placement = dict(placement)
    for group in problem.rules.colocated:
        if len({placement[task] for task in group}) > 1:
            options = _common_devices(problem, group)
            if not options:
                raise InfeasibleProblem(
                    f"no device can run {group[0]!r} and the tasks colocated with it", remedy=_REMEDY
                )
            costs = {
                d: sum(problem.time(t, d) for t in group) + crossing_time_s(problem, placement, set(group), d)
                for d in options
            }
            placement.update(dict.fromkeys(group, min(options, key=lambda d: costs[d])))
    return placement


def _common_devices(problem: Problem, group: Sequence[str]) -> list[str]:
    return [d for d in problem.device_ids if all(problem.time(task, d) < inf for task in group)]


def _violations(problem: Problem, placement: Placement) -> tuple[Violation, ...]:
    """Return the violations; evaluated only where a rule could be violated."""
    rules = problem.rules
    if rules.max_segments is None and not rules.contiguous and not rules.colocated and not may_overflow(problem):
        return ()
    return evaluate_proposal(problem, Proposal(placement)).violations


def _candidates(problem: Problem, placement: Placement) -> Iterator[dict[str, str]]:
    """Yield other placements, the most similar ones first."""
    fitting = _fit_memory(problem, placement)
    if fitting is not None:
        yield fitting
    if problem.rules.max_segments is None and not problem.rules.contiguous:
        return
    for start in [*([fitting] if fitting is not None else []), dict(placement)]:
        orders = [[task for part in cut(problem.graph, start) for task in part.nodes]]
        first_allowed = {task: problem.allowed(task)[0] for task in problem.graph}
        orders.append([task for part in cut(problem.graph, first_allowed) for task in part.nodes])
        orders.append(topological_order(problem.graph))
        for order in orders:
            for fixed in islice(_group_placements(problem, start), _MAX_GROUP_PLACEMENTS):
                limited = _limit_segments(problem, order, fixed)
                if limited is not None:
                    yield limited
                    fitting_too = _fit_memory(problem, limited)
                    if fitting_too is not None and fitting_too != limited:
                        yield fitting_too


def _group_placements(problem: Problem, placement: Placement) -> Iterator[dict[str, str]]:
    """Yield devices for the tasks of colocated groups: the present ones, then every other combination."""
    groups = problem.rules.colocated
    options = [sorted(_common_devices(problem, group), key=lambda d: d != placement[group[0]]) for group in groups]
    for devices in product(*options):
        yield {task: d for group, d in zip(groups, devices, strict=True) for task in group}


def _limit_segments(problem: Problem, order: Sequence[str], fixed: Mapping[str, str]) -> dict[str, str] | None:
    """Return the cheapest placement with few enough changes of device along an order; None where there is none.

    The state is the number of segments so far and, for contiguous pieces, the devices that have had theirs.
    """
    ids = problem.device_ids
    width = len(ids)
    max_segments = problem.rules.max_segments or len(order)
    contiguous = problem.rules.contiguous
    if contiguous:
        max_segments = min(max_segments, width)
    incoming = _incoming_s(problem, order)
    # (segments, devices used, current device) -> (cost, chain of decisions)
    states: dict[tuple[int, int, int], tuple[float, tuple[object, ...] | None]] = {}
    for position, task in enumerate(order):
        row = [t if fixed.get(task, d) == d else inf for t, d in zip(problem.times_s[task], ids, strict=True)]
        following: dict[tuple[int, int, int], tuple[float, tuple[object, ...] | None]] = {}
        if position == 0:
            for d in range(width):
                if row[d] < inf:
                    following[1, 1 << d if contiguous else 0, d] = (problem.overhead(ids[d]) + row[d], (None, task, d))
        for (count, used, here), (cost, chain) in states.items():
            for d in range(width):
                if row[d] == inf or (d != here and (count == max_segments or used >> d & 1)):
                    continue
                key = (count + (d != here), used | (1 << d if contiguous else 0), d)
                total = cost + row[d] + (problem.overhead(ids[d]) + incoming[task] if d != here else 0.0)
                known = following.get(key)
                if known is None or total < known[0]:
                    following[key] = (total, (chain, task, d))
        states = following
        if not states:
            return None
    _, link = min(states.values(), key=lambda state: state[0])
    placement: dict[str, str] = {}
    while link is not None:
        link, name, number = link  # type: ignore[assignment]
        placement[str(name)] = ids[int(str(number))]
    return {task: placement[task] for task in problem.graph}


def _incoming_s(problem: Problem, order: Sequence[str]) -> dict[str, float]:
    """Return the seconds that a cut before each task costs at least: the slowest transfer of its own inputs."""
    ids = problem.device_ids
    if len(ids) < 2:
        return dict.fromkeys(order, 0.0)
    incoming = {}
    for task in order:
        sizes = [s for p in problem.graph.predecessors(task) for s in problem.graph.edges[p, task]["tensors"].values()]
        incoming[task] = problem.transfer_time(max(sizes), ids[0], ids[1]) if sizes else 0.0
    return incoming


def _fit_memory(problem: Problem, placement: Placement) -> dict[str, str] | None:
    """Move work off overfull devices, what frees most memory for its cost first; None where that fails."""
    current = dict(placement)
    group_of = {task: group for group in problem.rules.colocated for task in group}
    units = list(dict.fromkeys(group_of.get(task, (task,)) for task in problem.graph))
    capacity = {d.id: inf if d.memory_bytes is None else float(d.memory_bytes) for d in problem.devices}
    ids = problem.device_ids
    weight = {(unit, d): sum(problem.held_bytes(task, d) for task in unit) for unit in units for d in ids}
    relaxed = replace(problem, rules=replace(problem.rules, max_segments=None, contiguous=False))
    for _ in units:
        violations = evaluate_proposal(relaxed, Proposal(current)).violations
        full = [v.where for v in violations if v.kind == "memory"]
        if not full:
            return current
        held: dict[str, float] = defaultdict(float)
        for unit in units:
            held[current[unit[0]]] += weight[unit, current[unit[0]]]
        options = []
        for unit in units:
            if current[unit[0]] != full[0]:
                continue
            for d in _common_devices(problem, unit):
                if d != full[0] and d not in full and held[d] + weight[unit, d] <= capacity[d]:
                    slower = sum(problem.time(t, d) - problem.time(t, full[0]) for t in unit)
                    freed = weight[unit, full[0]]
                    options.append((slower / (freed + 1.0), -freed, unit, d))
        if not options:
            return None
        _, _, unit, device = min(options)
        current.update(dict.fromkeys(unit, device))
    return None
