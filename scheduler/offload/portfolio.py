"""The anytime portfolio for the offload convention: constructions, searches, then proofs, within a time limit."""

from __future__ import annotations

from random import Random

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Problem
from ..problem.search_time_limit import TimeLimit
from ..problem.solution import Proposal
from .calls.call_search import search_calls
from .load_search import search_loads
from .offload_instance import make_instance
from .pipelines.pipeline_search import search_pipelines


def solve_offload(problem: Problem, time_limit_s: float, seed: int) -> Proposal:
    """Return the best placement found in the time, with a bound.

    Raises
    ------
    InfeasibleProblem
        When no valid placement was found.
    """
    clock = TimeLimit(time_limit_s)
    instance = make_instance(problem)
    random = Random(seed)
    if problem.objective == "latency":
        state = search_calls(instance, clock, random)
    elif problem.rules.contiguous:
        state = search_pipelines(instance, clock, random)
    else:
        state = search_loads(instance, clock, random)
    if state.where is None:
        raise InfeasibleProblem("no valid placement was found", remedy="allow more time or memory")
    bound = min(state.bound, state.value)
    return Proposal(instance.to_placement(state.where), bound, bound_by=state.bound_by, is_cut_short=clock.is_cut_short)
