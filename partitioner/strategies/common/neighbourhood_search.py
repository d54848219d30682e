"""Starting points and the neighbourhood search that `local-search`, `annealing`, `exact` and `auto` share.

A model's problem is searched for a number of moves that follows from the time limit, not for the time itself: the same
seed then gives the same plan on a slow and on a fast machine. The clock stops only what is far behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, inf
from random import Random

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.offload.calls.call_latency import anneal_calls
from trisect.scheduler.offload.calls.call_search import starting_placements
from trisect.scheduler.offload.load_annealing import anneal
from trisect.scheduler.offload.load_search import first_fit
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.pipelines.pipeline_chain import MAX_ORDERS, best_intervals, depth_first_order
from trisect.scheduler.offload.step_counts import call_steps, load_steps
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import (
    priority_order,
    schedule_in_order,
    task_lists,
    upward_ranks,
)

from .. import propose
from .placement_value import evaluate_proposal, simple_bound

_STARTS = ("single", "heft", "peft", "dp-chain")
_MOVES_PER_S = 10_000
"""Moves per second on a graph of one task, a fifth of what one core of 2020 manages; a graph of a hundred tasks gets a
hundredth, since each move costs a hundred times as much."""
_ORDER_MOVES_PER_S = 150_000
"""The same for moves that only schedule the tasks in another order, two thirds of what one core of 2024 manages."""
_ROUNDING = 1e-9
_SHAKEN_SHARE = 0.2
_SHAKE_WIDTHS = (0.02, 0.05, 0.1, 0.3)
"""Of the largest rank, how much a rank may change."""
_NEIGHBOURS_BELOW, _SEGMENT_BELOW = 0.3, 0.45
"""Random numbers below which a move takes neighbours along, or else a whole segment."""


def move_count(problem: Problem, time_limit_s: float) -> int:
    """Return how many placements a search may evaluate so that it ends well within a time limit."""
    return max(1, int(time_limit_s * _MOVES_PER_S / max(1, len(problem.graph))))


def best_quick_proposal(problem: Problem, names: tuple[str, ...] = _STARTS) -> Proposal:
    """Return the best proposal of some strategies that do not search; of equal ones the first.

    Raises
    ------
    InfeasibleProblem
        When none of them finds a valid placement.
    """
    best, best_value = None, inf
    for name in names:
        try:
            proposal = propose(problem, name)
        except InfeasibleProblem:
            continue
        value = evaluate_proposal(problem, proposal).value
        if value < best_value:
            best, best_value = proposal, value
    if best is None:
        if problem.rules.convention == "offload":
            instance = make_instance(problem)
            where = first_fit(instance)
            if where is not None and problem.objective == "throughput" and not problem.rules.contiguous:
                return Proposal(instance.to_placement(where))
        raise InfeasibleProblem("no quick strategy finds a valid placement", remedy="use exact, or loosen a constraint")
    return best


def improve(
    problem: Problem,
    start: Proposal,
    time_limit_s: float,
    seed: int,
    *,
    initial_temperature: float,
    moves: int | None = None,
) -> Proposal:
    """Improve a proposal by random moves.

    Parameters
    ----------
    initial_temperature : float
        How much worse a move may be at the start, as a fraction of the value; 0 only goes downhill.
    moves : int, optional
        Maximum number of moves for a model's problem; `move_count` of the time limit when left out.
    """
    clock, random = TimeLimit(time_limit_s), Random(seed)
    if problem.rules.convention == "offload":
        return _improve_offload(problem, start, clock, random, initial_temperature)
    if problem.rules.convention == "tasks":
        order_moves = max(1, int(time_limit_s * _ORDER_MOVES_PER_S / max(1, len(problem.graph))))
        return _improve_order(problem, start, clock, random, order_moves)
    moves = move_count(problem, time_limit_s) if moves is None else moves
    return _improve_segments(problem, start, clock, random, initial_temperature, moves)


def _improve_offload(
    problem: Problem, start: Proposal, clock: TimeLimit, random: Random, initial_temperature: float
) -> Proposal:
    instance = make_instance(problem)
    where = instance.from_placement(start.placement)
    if problem.objective == "latency":
        starts = [*starting_placements(instance), (inf, where)]
        steps = call_steps(instance, clock.seconds)
        _, where = anneal_calls(
            instance, min(starts)[1], random, clock, steps, initial_temperature=initial_temperature or 1e-9
        )
    elif problem.rules.contiguous:
        value = evaluate_proposal(problem, start).value
        for _ in range(MAX_ORDERS):
            if clock.is_over():
                break
            pipeline = best_intervals(instance, depth_first_order(instance, random), value)
            if pipeline is not None:
                value, where = pipeline
    else:
        steps = load_steps(instance, clock.seconds)
        _, where = anneal(instance, where, random, clock, steps, initial_temperature=10 * initial_temperature or 1e-9)
    better = Proposal(instance.to_placement(where), is_cut_short=clock.is_cut_short)
    return better if evaluate_proposal(problem, better).value < evaluate_proposal(problem, start).value else start


def _improve_order(problem: Problem, start: Proposal, clock: TimeLimit, random: Random, moves: int) -> Proposal:
    """Perturb the ranks of list scheduling, and accept what is no worse."""
    lists = task_lists(problem)
    ranks = upward_ranks(lists)
    best, best_value = start, evaluate_proposal(problem, start).value
    bound = simple_bound(problem)
    current, spread = list(ranks), max(ranks, default=0.0)
    for _ in range(moves):
        if best_value <= bound * (1 + _ROUNDING) or clock.is_over():
            break
        width = spread * random.choice(_SHAKE_WIDTHS)
        shaken = [r + random.uniform(-width, width) if random.random() < _SHAKEN_SHARE else r for r in current]
        schedule = schedule_in_order(lists, priority_order(lists, shaken))
        if schedule.makespan <= best_value:
            current = shaken
            if schedule.makespan < best_value:
                best_value = schedule.makespan
                best = Proposal(lists.placement(schedule.where), starts_s=lists.starts_s(schedule))
    return replace(best, is_cut_short=clock.is_cut_short)


def _improve_segments(
    problem: Problem, start: Proposal, clock: TimeLimit, random: Random, initial_temperature: float, moves: int
) -> Proposal:
    """Move a task, a neighbourhood on one device, or a whole segment, evaluated by the whole schedule."""
    if not problem.graph or len(problem.devices) < 2:
        return start
    current = dict(start.placement)
    evaluation = evaluate_proposal(problem, Proposal(current))
    value = best_value = evaluation.value
    best, bound, step = dict(current), simple_bound(problem), 0
    while step < moves and best_value > bound * (1 + _ROUNDING):
        if clock.is_over():
            return replace(start, placement=best, is_cut_short=True)
        step += 1
        moved = random_move(problem, current, evaluation.parts, random)
        if not moved:
            continue
        changed = evaluate_proposal(problem, Proposal({**current, **moved}))
        temperature = initial_temperature * best_value * (1 - step / moves) ** 2
        if changed.value <= value or (temperature > 0 and random.random() < exp((value - changed.value) / temperature)):
            current, value, evaluation = {**current, **moved}, changed.value, changed
            if value < best_value:
                best, best_value = dict(current), value
    return replace(start, placement=best)


def random_move(problem: Problem, current: Mapping[str, str], parts: Sequence[Part], random: Random) -> dict[str, str]:
    """Return a small random change: a task, its neighbours on the same device, or a whole segment, to another device.

    Tasks that cannot run there stay, and colocated tasks move together or stay; empty where nothing is left.
    """
    task = random.choice(list(current))
    near = [*problem.graph.predecessors(task), *problem.graph.successors(task)]
    target = random.choice([*problem.device_ids, *(current[n] for n in near)])
    moved, draw = [task], random.random()
    if draw < _NEIGHBOURS_BELOW:
        moved += [n for n in near if current[n] == current[task]]
    elif draw < _SEGMENT_BELOW and parts:
        moved = list(random.choice(parts).nodes)
    groups = {task: group for group in problem.rules.colocated for task in group}
    changed: dict[str, str] = {}
    for task in moved:
        group = groups.get(task, (task,))
        if current[task] != target and all(problem.time(member, target) < inf for member in group):
            changed.update(dict.fromkeys(group, target))
    return changed
