"""Keeps rules of thumb within the rules: what a heuristic says, bent where its problem forbids it.

What must be together goes where the group costs least; what does not fit a memory moves, the largest first; too many
segments are cut anew along an order of the tasks, by a dynamic programme over the places of the cuts,
O(tasks x devices^2 x segments).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from math import inf

import networkx as nx

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.offload.offload_repair import repair_offload
from trisect.scheduler.problem.problem import Placement, Problem, crossing_time_s
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.energy_and_memory import may_overflow
from trisect.scheduler.simulation.list_scheduling import ListSchedule, TaskLists
from trisect.scheduler.simulation.validate import Violation

from ...segments.convex_cut import cut
from .placement_value import evaluate_proposal

_REMEDY = "use exact or auto, or loosen a constraint"
_TRIES = 64
"""Ways to place groups that are tried when segments are few."""


def repair(problem: Problem, placement: Placement) -> dict[str, str]:
    """The placement, changed where a rule of its problem would be broken.

    Raises
    ------
    InfeasibleProblem
        When these rules of thumb find nothing that keeps all.
    """
    if problem.rules.convention == "offload":
        return repair_offload(problem, placement)
    kept = together(problem, placement)
    if problem.rules.convention == "tasks" or not _broken(problem, kept):
        return kept
    for bent in _bent(problem, kept):
        if not _broken(problem, bent):
            return bent
    raise InfeasibleProblem(
        f"no placement like this keeps all rules: {_broken(problem, kept)[0].message}", remedy=_REMEDY
    )


def repaired_proposal(problem: Problem, lists: TaskLists, found: ListSchedule) -> Proposal:
    """What list scheduling found, with its times where the problem goes by single tasks."""
    placement = lists.placement(found.where)
    if problem.rules.convention == "tasks":
        return Proposal(placement, starts_s=dict(zip(lists.tasks, found.start, strict=True)))
    return Proposal(repair(problem, {task: placement[task] for task in problem.graph}))


def together(problem: Problem, placement: Placement) -> dict[str, str]:
    """The placement with each group that must be together on the device where the group costs least."""
    placement = dict(placement)
    for group in problem.rules.colocated:
        if len({placement[task] for task in group}) > 1:
            options = _common(problem, group)
            if not options:
                raise InfeasibleProblem(f"no device can run {group[0]!r} and what must be with it", remedy=_REMEDY)
            costs = {
                d: sum(problem.time(t, d) for t in group) + crossing_time_s(problem, placement, set(group), d)
                for d in options
            }
            placement.update(dict.fromkeys(group, min(options, key=lambda d: costs[d])))
    return placement


def _common(problem: Problem, group: Sequence[str]) -> list[str]:
    return [d for d in problem.device_ids if all(problem.time(task, d) < inf for task in group)]


def _broken(problem: Problem, placement: Placement) -> tuple[Violation, ...]:
    """What is broken; looked at only where there is something to break."""
    rules = problem.rules
    if rules.max_segments is None and not rules.contiguous and not rules.colocated and not may_overflow(problem):
        return ()
    return evaluate_proposal(problem, Proposal(placement)).violations


def _bent(problem: Problem, placement: Placement) -> Iterator[dict[str, str]]:
    """Other placements, those most like the first one first."""
    roomy = _with_room(problem, placement)
    if roomy is not None:
        yield roomy
    few = problem.rules.max_segments is not None or problem.rules.contiguous
    for start in ([roomy] if roomy is not None else []) + [dict(placement)] if few else []:
        orders = [[task for part in cut(problem.graph, start) for task in part.nodes]]
        eager = {task: problem.allowed(task)[0] for task in problem.graph}
        orders.append([task for part in cut(problem.graph, eager) for task in part.nodes])
        orders.append(list(nx.topological_sort(problem.graph)))
        for order in orders:
            for fixed in islice(_group_places(problem, start), _TRIES):
                found = _few_segments(problem, order, fixed)
                if found is not None:
                    yield found
                    spacious = _with_room(problem, found)
                    if spacious is not None and spacious != found:
                        yield spacious


def _group_places(problem: Problem, placement: Placement) -> Iterator[dict[str, str]]:
    """Devices for the tasks of groups: as they are, then every other way."""
    groups = problem.rules.colocated
    options = [sorted(_common(problem, group), key=lambda d: d != placement[group[0]]) for group in groups]
    for devices in product(*options):
        yield {task: d for group, d in zip(groups, devices, strict=True) for task in group}


def _few_segments(problem: Problem, order: Sequence[str], fixed: Mapping[str, str]) -> dict[str, str] | None:
    """The cheapest placement whose changes of device along an order are few enough; None where there is none.

    The state is how many segments there are so far, and for contiguous pieces which devices had theirs.
    """
    ids = problem.device_ids
    width = len(ids)
    most = problem.rules.max_segments or len(order)
    contiguous = problem.rules.contiguous
    if contiguous:
        most = min(most, width)
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
                if row[d] == inf or (d != here and (count == most or used >> d & 1)):
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
    found: dict[str, str] = {}
    while link is not None:
        link, name, number = link  # type: ignore[assignment]
        found[str(name)] = ids[int(str(number))]
    return {task: found[task] for task in problem.graph}


def _incoming_s(problem: Problem, order: Sequence[str]) -> dict[str, float]:
    """Seconds that a cut before each task takes at least: the slowest transfer of what it reads itself."""
    ids = problem.device_ids
    if len(ids) < 2:
        return dict.fromkeys(order, 0.0)
    found = {}
    for task in order:
        sizes = [s for p in problem.graph.predecessors(task) for s in problem.graph.edges[p, task]["tensors"].values()]
        found[task] = problem.transfer_time(max(sizes), ids[0], ids[1]) if sizes else 0.0
    return found


def _with_room(problem: Problem, placement: Placement) -> dict[str, str] | None:
    """Move work off devices that are too full, each time what gains most room for its cost; None where that fails."""
    current = dict(placement)
    home = {task: group for group in problem.rules.colocated for task in group}
    units = list(dict.fromkeys(home.get(task, (task,)) for task in problem.graph))
    room = {d.id: inf if d.memory_bytes is None else float(d.memory_bytes) for d in problem.devices}
    ids = problem.device_ids
    weight = {(unit, d): sum(problem.held_bytes(task, d) for task in unit) for unit in units for d in ids}
    relaxed = replace(problem, rules=replace(problem.rules, max_segments=None, contiguous=False))
    for _ in units:
        full = [v.where for v in evaluate_proposal(relaxed, Proposal(current)).violations if v.kind == "memory"]
        if not full:
            return current
        held: dict[str, float] = defaultdict(float)
        for unit in units:
            held[current[unit[0]]] += weight[unit, current[unit[0]]]
        options = []
        for unit in units:
            if current[unit[0]] != full[0]:
                continue
            for d in _common(problem, unit):
                if d != full[0] and d not in full and held[d] + weight[unit, d] <= room[d]:
                    slower = sum(problem.time(t, d) - problem.time(t, full[0]) for t in unit)
                    freed = weight[unit, full[0]]
                    options.append((slower / (freed + 1.0), -freed, unit, d))
        if not options:
            return None
        _, _, unit, device = min(options)
        current.update(dict.fromkeys(unit, device))
    return None
