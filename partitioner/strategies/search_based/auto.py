"""``auto``: an algorithm portfolio: the best of the other strategies, then local search.

Gomes and Selman 2001, https://doi.org/10.1016/S0004-3702(00)00081-3. Never worse than the best single device.
O(strategies + moves x one simulation).
"""

from __future__ import annotations

from dataclasses import replace

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import best_quick_proposal, improve, move_count
from ..common.placement_value import certificate, evaluate_proposal
from ..graph_based.exact import exact

_QUICK = ("opclass", "heft", "peft", "multilevel", "balanced", "dp-chain", "mincut")
_MINCUT_TASKS = 400
"""On larger graphs a minimum cut takes seconds."""
_DEFAULT_SHARE = 0.2
"""Of the default time limit: without an explicit one, planning should be quick. Time beyond the default is all used."""
_IMPROVED_RATIO = 0.99
"""A search result replaces its start if its value is below this fraction of it."""
_SHARED_RATIO, _UNMEASURED_RATIO = 0.9, 0.8
"""Engines on the same processor only take turns: a split must promise at most this fraction of one device's latency; a
smaller one where the boundary cost between them was not measured, since each cut loses fusions and layouts (1.17 to 1.4
times the time of the whole model was measured with OpenVINO's HETERO)."""


@strategy("auto")
def auto(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Evaluate every quick strategy, then search from the best; stochastic (takes a seed).

    A model's problem is searched for a number of moves, so that the same seed gives the same plan; that of a benchmark
    for the whole time, as `exact` does. Of equal placements the simplest is chosen: a split must gain something.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond(cpu_s=3.5)
    >>> set(auto(problem).placement.values())
    {'gpu:y'}
    """
    if problem.rules.convention != "segments":
        return exact(problem, time_limit_s=time_limit_s, seed=seed)
    singles = tuple(f"single:{device}" for device in problem.device_ids)
    small = len(problem.graph) <= _MINCUT_TASKS
    quick = [name for name in _QUICK if small or name != "mincut"]
    try:
        start = best_quick_proposal(problem, (*singles, *quick))
    except InfeasibleProblem:
        # No heuristic satisfies all constraints: only a solver can find a placement, or prove that there is none.
        return exact(problem, time_limit_s=time_limit_s, seed=seed)
    value, bound = evaluate_proposal(problem, start).value, certificate(problem, start)
    start = replace(start, bound=bound.value, bound_by=bound.by)
    if value <= bound.value:
        return _unless_single_suffices(problem, start, singles)
    default_s = min(time_limit_s, TIME_LIMIT_S)
    moves = int(_DEFAULT_SHARE * move_count(problem, default_s))
    if time_limit_s > default_s:
        moves += move_count(problem, time_limit_s - default_s)
    improved = improve(problem, start, time_limit_s, seed, initial_temperature=0.0, moves=max(1, moves))
    if evaluate_proposal(problem, improved).value < _IMPROVED_RATIO * value:
        return _unless_single_suffices(problem, improved, singles)
    return _unless_single_suffices(problem, replace(start, is_cut_short=improved.is_cut_short), singles)


def _unless_single_suffices(problem: Problem, proposal: Proposal, singles: tuple[str, ...]) -> Proposal:
    """Return the proposal, or one device alone where all devices use the same cores and the gain is too small."""
    if problem.objective != "latency" or not set(problem.device_ids) <= problem.platform.core_sharing.groups.keys():
        return proposal
    try:
        alone = best_quick_proposal(problem, singles)
    except InfeasibleProblem:
        return proposal
    enough = _SHARED_RATIO if problem.boundary_costs else _UNMEASURED_RATIO
    if evaluate_proposal(problem, proposal).value <= enough * evaluate_proposal(problem, alone).value:
        return proposal
    return replace(alone, bound=proposal.bound, bound_by=proposal.bound_by, is_cut_short=proposal.is_cut_short)
