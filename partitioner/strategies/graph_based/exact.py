"""``exact``: the optimum, or the best found in time with a proven bound.

Accelerators that pay for transfers: a dynamic programme over downsets for pipelines (Tarnawski et al. 2020,
https://doi.org/10.48550/arXiv.2006.16423), else searches and CP-SAT. Segments: every placement where there are few,
else a linear program over slots by CP-SAT (https://developers.google.com/optimization) or, as ``exact:milp``, by SCIP
(https://doi.org/10.1007/s12532-008-0001-1), and a task-wise relaxation. Single tasks: CP-SAT. Exponential; stops at the
time limit.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf, prod
from time import monotonic

from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.scheduler.bounds.exact_makespan import prove
from trisect.scheduler.bounds.linear_program import Solver
from trisect.scheduler.bounds.lower_bounds import LowerBound
from trisect.scheduler.bounds.segment_slots import solve_segments
from trisect.scheduler.offload.portfolio import solve_offload
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import changes_for, improve, quick_start
from ..common.placement_value import certificate, judge, simple_bound

_ENUMERABLE = 2**13
_SEARCHING = 0.3
_SOLVING = 0.5
_PROVEN = 1e-9
_STARTS = ("single", "heft", "peft", "opclass", "multilevel", "balanced", "dp-chain")
_SOLVERS: tuple[Solver, ...] = ("cp", "milp")


@strategy("exact")
def exact(problem: Problem, solver: str = "cp", *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Search, then prove.

    The bound of the proposal is what has been proven when time is up.

    Parameters
    ----------
    problem : Problem
    solver : {"cp", "milp"}
        For segments: CP-SAT or SCIP.
    time_limit_s, seed
        Of the search and the solver.

    Raises
    ------
    InfeasibleProblem
        When no placement keeps all constraints, or none was found in time.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> exact(problem).bound
    4.0
    """
    if problem.rules.convention == "offload":
        return solve_offload(problem, time_limit_s, seed)
    if problem.rules.convention == "segments":
        return _segments(problem, solver, time_limit_s, seed)
    begin = monotonic()
    bound = simple_bound(problem)
    start = improve(problem, quick_start(problem), time_limit_s * _SEARCHING, seed, heat=0.02)
    value = judge(problem, start).value
    if value <= bound * (1 + _PROVEN):
        return replace(start, bound=bound)
    found = prove(problem, start.placement, value, time_limit_s - (monotonic() - begin), seed)
    bound = max(bound, found.bound)
    return replace(found if judge(problem, found).value < value else start, bound=min(bound, value), bound_by="CP-SAT")


def _segments(problem: Problem, solver: str, time_limit_s: float, seed: int) -> Proposal:
    chosen = next((name for name in _SOLVERS if name == solver), None)
    if chosen is None:
        raise InvalidInput(f"exact knows no solver {solver!r}", remedy=f"there are: {', '.join(_SOLVERS)}")
    few = min(_ENUMERABLE, changes_for(problem, time_limit_s))
    if prod(len(problem.allowed(task)) for task in problem.graph) <= few:
        return _best_of_all(problem)
    try:
        best = quick_start(problem, _STARTS)
        for heat in (0.0, 0.02):
            best = improve(problem, best, time_limit_s * _SEARCHING / 2, seed, heat=heat)
        verdict = judge(problem, best)
        value, parts, limit_s = verdict.value, list(verdict.parts), time_limit_s * _SOLVING
    except InfeasibleProblem:
        best, value, parts, limit_s = Proposal({}), inf, None, time_limit_s
    bound = certificate(problem, best)
    if value > bound.value * (1 + _PROVEN):
        found = solve_segments(problem, parts, value, limit_s, seed, chosen)
        if found is not None:
            bound = max(bound, certificate(problem, found), key=lambda b: b.value)
            is_better = judge(problem, found).value < value
            cut_short = best.is_cut_short or found.is_cut_short
            best = replace(found if is_better else best, is_cut_short=cut_short)
            value = judge(problem, best).value
    if value == inf:
        raise InfeasibleProblem(
            "no placement was found that keeps all constraints", remedy="give more time, or loosen one"
        )
    if value > bound.value * (1 + _PROVEN) and problem.objective in ("latency", "throughput"):
        relaxed = prove(problem, best.placement, value, time_limit_s * (1 - _SEARCHING - _SOLVING), seed)
        bound = max(bound, LowerBound(relaxed.bound, "CP-SAT, task by task"), key=lambda b: b.value)
    return replace(best, bound=min(bound.value, value), bound_by=bound.by)


def _best_of_all(problem: Problem) -> Proposal:
    tasks = list(problem.graph)
    every = product(*(problem.allowed(task) for task in tasks))
    best, value = None, inf
    for where in every:
        found = Proposal(dict(zip(tasks, where, strict=True)))
        found_value = judge(problem, found).value
        if found_value < value:
            best, value = found, found_value
    if best is None:
        raise InfeasibleProblem("no placement keeps all constraints: all were tried", remedy="loosen one")
    return replace(best, bound=value, bound_by="all placements tried")
