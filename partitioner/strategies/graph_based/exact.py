"""``exact``: the optimum, or the best found in time with a proven bound.

Accelerators that pay for transfers: a dynamic programme over downsets for pipelines (Tarnawski et al. 2020,
https://doi.org/10.48550/arXiv.2006.16423), else searches and CP-SAT. Segments: full enumeration of small problems,
else a linear program over slots by CP-SAT (https://developers.google.com/optimization) or, as ``exact:milp``, by SCIP
(https://doi.org/10.1007/s12532-008-0001-1), and a task-wise relaxation. Single tasks: CP-SAT. Exponential; stops at the
time limit; stochastic (takes a seed).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf, prod

from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.scheduler.bounds.exact_makespan import solve_task_schedule
from trisect.scheduler.bounds.linear_program import Solver
from trisect.scheduler.bounds.lower_bounds import LowerBound
from trisect.scheduler.bounds.segment_slots import solve_segments
from trisect.scheduler.offload.portfolio import solve_offload
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import best_quick_proposal, improve, move_count
from ..common.placement_value import certificate, evaluate_proposal, simple_bound

_ENUMERABLE = 2**13
_SEARCH_SHARE = 0.3
_SOLVER_SHARE = 0.5
_INITIAL_TEMPERATURE = 0.02
_PROVEN = 1e-9
_STARTS = ("single", "heft", "peft", "opclass", "multilevel", "balanced", "dp-chain")
_SOLVERS: tuple[Solver, ...] = ("cp", "milp")


@strategy("exact")
def exact(problem: Problem, solver: str = "cp", *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Search, then prove.

    The bound of the proposal is what has been proven when time is up.

    Parameters
    ----------
    solver : {"cp", "milp"}
        For segments: CP-SAT or SCIP.
    time_limit_s, seed
        Time limit and seed of the search and the solver.

    Raises
    ------
    InfeasibleProblem
        When no placement satisfies all constraints, or none was found in time.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> exact(problem).bound
    4.0
    """
    if problem.rules.convention == "offload":
        return solve_offload(problem, time_limit_s, seed)
    if problem.rules.convention == "segments":
        return _segments(problem, solver, time_limit_s, seed)
    clock = TimeLimit(time_limit_s)
    bound = simple_bound(problem)
    start_s = time_limit_s * _SEARCH_SHARE
    start = improve(problem, best_quick_proposal(problem), start_s, seed, initial_temperature=_INITIAL_TEMPERATURE)
    value = evaluate_proposal(problem, start).value
    if value <= bound * (1 + _PROVEN):
        return replace(start, bound=bound)
    proven = solve_task_schedule(problem, start.placement, value, clock.left_s(), seed)
    bound = max(bound, proven.bound)
    best = proven if evaluate_proposal(problem, proven).value < value else start
    return replace(best, bound=min(bound, value), bound_by="CP-SAT")


def _segments(problem: Problem, solver: str, time_limit_s: float, seed: int) -> Proposal:
    chosen = next((name for name in _SOLVERS if name == solver), None)
    if chosen is None:
        raise InvalidInput(f"expected a solver of exact, found {solver!r}", remedy=f"there are: {', '.join(_SOLVERS)}")
    few = min(_ENUMERABLE, move_count(problem, time_limit_s))
    if prod(len(problem.allowed(task)) for task in problem.graph) <= few:
        return _enumerate(problem)
    try:
        best = best_quick_proposal(problem, _STARTS)
        for initial_temperature in (0.0, _INITIAL_TEMPERATURE):
            best = improve(
                problem, best, time_limit_s * _SEARCH_SHARE / 2, seed, initial_temperature=initial_temperature
            )
        evaluation = evaluate_proposal(problem, best)
        value, parts, limit_s = evaluation.value, list(evaluation.parts), time_limit_s * _SOLVER_SHARE
    except InfeasibleProblem:
        best, value, parts, limit_s = Proposal({}), inf, None, time_limit_s
    bound = certificate(problem, best)
    if value > bound.value * (1 + _PROVEN):
        solved = solve_segments(problem, parts, value, limit_s, seed, chosen)
        if solved is not None:
            bound = max(bound, certificate(problem, solved), key=lambda b: b.value)
            is_better = evaluate_proposal(problem, solved).value < value
            cut_short = best.is_cut_short or solved.is_cut_short
            best = replace(solved if is_better else best, is_cut_short=cut_short)
            value = evaluate_proposal(problem, best).value
    if value == inf:
        raise InfeasibleProblem(
            "no placement was found that satisfies all constraints",
            remedy="give more time, or loosen a constraint",
        )
    if value > bound.value * (1 + _PROVEN) and problem.objective in ("latency", "throughput"):
        relaxed = solve_task_schedule(
            problem, best.placement, value, time_limit_s * (1 - _SEARCH_SHARE - _SOLVER_SHARE), seed
        )
        bound = max(bound, LowerBound(relaxed.bound, "CP-SAT, task by task"), key=lambda b: b.value)
    return replace(best, bound=min(bound.value, value), bound_by=bound.by)


def _enumerate(problem: Problem) -> Proposal:
    """Return the optimum by evaluating every placement."""
    tasks = list(problem.graph)
    best, value = None, inf
    for where in product(*(problem.allowed(task) for task in tasks)):
        proposal = Proposal(dict(zip(tasks, where, strict=True)))
        proposal_value = evaluate_proposal(problem, proposal).value
        if proposal_value < value:
            best, value = proposal, proposal_value
    if best is None:
        raise InfeasibleProblem("no placement satisfies all constraints: all were evaluated", remedy="loosen one")
    return replace(best, bound=value, bound_by="all placements tried")
