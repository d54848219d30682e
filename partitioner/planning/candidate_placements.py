"""Proposes placements that are worth running: the best of many strategies, as different from each other as possible.

A prediction ignores some costs of a cut. So strategies also place the tasks as if each call cost more, which gives
fewer and longer segments, and all cuts into two segments are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import inf

from trisect.runtime.errors import InfeasibleProblem, TrisectError
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import topological_order

from ..strategies import propose
from ..strategies.common.neighbourhood_search import improve, move_count
from ..strategies.common.placement_value import evaluate_proposal

_STRATEGIES = ("heft", "peft", "multilevel", "dp-chain", "opclass", "balanced", "mincut")
_MINCUT_TASKS_MAX = 400
_CALL_PENALTIES = (0.0, 0.01, 0.05)
"""What each call costs more than predicted, as a share of the best single device's value."""
_CUTS_MAX = 40
"""Number of cuts into two segments that are tried first, in each direction, before the places near the best one."""
_SEARCH_S = 0.5
"""Time for which a local search, or simulated annealing, from the best placement may take moves."""
_TEMPERATURE = 0.05
"""How much worse a move of simulated annealing may be at first, as a share of the value."""
_EQUAL_SHARE = 0.02
"""Placements are the same for a measurement when tasks with less than this share of the time differ."""

Signature = tuple[Part, ...]


@dataclass(frozen=True)
class CandidatePlacement:
    """A placement and its predicted value."""

    proposal: Proposal
    parts: Signature
    value: float

    @property
    def devices(self) -> set[str]:
        """Devices that run a part."""
        return {part.device for part in self.parts}


def evaluated(problem: Problem, proposal: Proposal) -> CandidatePlacement | None:
    """Return a proposal with its value; None where it violates a rule."""
    evaluation = evaluate_proposal(problem, proposal)
    return None if evaluation.value == inf else CandidatePlacement(proposal, evaluation.parts, evaluation.value)


def single_candidates(problem: Problem) -> dict[str, CandidatePlacement]:
    """Return, by device id, the placements of all tasks on one device, where that can and may run them all."""
    singles = {device: single_candidate(problem, device) for device in problem.device_ids}
    return {device: single for device, single in singles.items() if single is not None}


def single_candidate(problem: Problem, device: str) -> CandidatePlacement | None:
    """Return the placement of all tasks on one device; None where that cannot or must not run them all."""
    try:
        single = evaluated(problem, propose(problem, f"single:{device}"))
    except InfeasibleProblem:
        return None
    return single if single is not None and single.devices <= {device} else None


def split_candidates(problem: Problem, *, seed: int, time_limit_s: float) -> list[CandidatePlacement]:
    """Return placements on several devices, no two with the same segments, the lowest predicted value first.

    Parameters
    ----------
    time_limit_s : float
        After this time no further strategy starts, and no further cut is tried.
    """
    clock = TimeLimit(time_limit_s)
    candidates: dict[Signature, CandidatePlacement] = {}
    for proposal in _proposals(problem, seed, candidates, clock):
        candidate = evaluated(problem, proposal)
        if candidate is not None and len(candidate.devices) > 1:
            candidates.setdefault(candidate.parts, candidate)
        if clock.is_over():
            break
    return sorted(candidates.values(), key=lambda candidate: candidate.value)


def are_similar(problem: Problem, one: CandidatePlacement, other: CandidatePlacement) -> bool:
    """Return whether two placements differ so little that a measurement of one says all of the other."""
    if len(one.parts) != len(other.parts):
        return False
    places, other_places = one.proposal.placement, other.proposal.placement
    times_s = {task: problem.time(task, places[task]) for task in problem.graph}
    moved_s = sum(time_s for task, time_s in times_s.items() if places[task] != other_places[task])
    return moved_s < _EQUAL_SHARE * sum(times_s.values())


def _proposals(
    problem: Problem, seed: int, known: dict[Signature, CandidatePlacement], clock: TimeLimit
) -> Iterator[Proposal]:
    """Yield proposals, quick ones first; `known` grows meanwhile, and searches start from its best."""
    alone = min((single.value for single in single_candidates(problem).values()), default=0.0)
    names = [name for name in _STRATEGIES if name != "mincut" or len(problem.graph) <= _MINCUT_TASKS_MAX]
    variants = [_with_dear_calls(problem, share * alone) for share in _CALL_PENALTIES if share == 0 or alone > 0]
    yield from _strategy_proposals(variants[0], names, seed)
    yield from _two_segments(problem, clock)
    for variant in variants[1:]:
        yield from _strategy_proposals(variant, names[:4], seed)
    for variant in variants:
        if known:
            start = min((evaluated(variant, c.proposal) or c for c in known.values()), key=lambda c: c.value)
            moves = move_count(problem, _SEARCH_S)
            for temperature in (0.0, _TEMPERATURE):
                limit_s = min(4 * _SEARCH_S, clock.left_s())
                yield improve(variant, start.proposal, limit_s, seed, initial_temperature=temperature, moves=moves)


def _strategy_proposals(problem: Problem, names: list[str], seed: int) -> Iterator[Proposal]:
    for name in names:
        try:
            yield propose(problem, name, seed=seed)
        except TrisectError:  # a strategy that needs what this problem lacks
            continue


def _with_dear_calls(problem: Problem, more_s: float) -> Problem:
    platform = problem.platform
    overheads_s = {device: problem.overhead(device) + more_s for device in problem.device_ids}
    return replace(problem, platform=replace(platform, call_overhead_s=overheads_s)) if more_s > 0 else problem


def _two_segments(problem: Problem, clock: TimeLimit) -> Iterator[Proposal]:
    """Yield the best cuts of the tasks, in a topological order, into two segments, for each pair of devices.

    All pairs are tried with few cuts before one is tried with more, so that none is left out; half of the time is left
    for the places near the best cuts, and for other proposals.
    """
    order = topological_order(problem.graph)
    allowed = {device: [problem.time(task, device) < inf for task in order] for device in problem.device_ids}

    def at(place: int, first: str, second: str) -> CandidatePlacement | None:
        if not (all(allowed[first][:place]) and all(allowed[second][place:])):
            return None
        placement = dict.fromkeys(order[:place], first) | dict.fromkeys(order[place:], second)
        return evaluated(problem, Proposal(placement))

    step = max(1, len(order) // _CUTS_MAX)
    places = list(range(step, len(order), step))
    spread = sorted(range(len(places)), key=lambda i: ((i + 1) & -(i + 1), i), reverse=True)
    pairs = list(permutations(problem.device_ids, 2))
    tried: dict[tuple[str, str], dict[int, CandidatePlacement]] = {pair: {} for pair in pairs}
    first = TimeLimit(clock.left_s() / 2)
    for i, pair in product(spread, pairs):
        if first.is_over():
            break
        candidate = at(places[i], *pair)
        if candidate is not None:
            tried[pair][places[i]] = candidate
    for pair, valid in tried.items():
        for best in sorted(valid, key=lambda place: (valid[place].value, place))[:2]:
            near = [valid[best]]
            for more in range(1 - step, step):
                if more and clock.left_s():
                    near.append(at(best + more, *pair) or valid[best])
            yield min(near, key=lambda candidate: candidate.value).proposal
