"""``exact``: the optimum, or the best found in time with a proven bound.

Accelerators that pay for transfers: a dynamic programme over downsets for pipelines (Tarnawski et al. 2020,
https://doi.org/10.48550/arXiv.2006.16423), else searches and CP-SAT. Single tasks and segments: every placement where
there are few, else CP-SAT (https://developers.google.com/optimization), whose task-wise bound holds for segments too.
Exponential; stops at the time limit.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from time import monotonic

from trisect.scheduler.makespan import prove
from trisect.scheduler.offload.search import solve_offload
from trisect.scheduler.problem import Problem
from trisect.scheduler.solution import Proposal

from . import TIME_LIMIT_S, strategy
from .improving import improve, quick_start
from .judging import judge, simple_bound

_ENUMERABLE = 2**11
_SEARCHING = 0.3
_PROVEN = 1e-9


@strategy("exact")
def exact(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Search, then prove.

    The bound of the proposal is what has been proven when time is up.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0)
    >>> exact(problem).bound
    4.0
    """
    if problem.rules.convention == "offload":
        return solve_offload(problem, time_limit_s, seed)
    begin = monotonic()
    if problem.rules.convention == "segments" and _placements(problem) <= _ENUMERABLE:
        return _best_of_all(problem)
    bound = simple_bound(problem)
    start = improve(problem, quick_start(problem), time_limit_s * _SEARCHING, seed, heat=0.02)
    value = judge(problem, start).value
    if value <= bound * (1 + _PROVEN):
        return replace(start, bound=bound)
    found = prove(problem, start.placement, value, time_limit_s - (monotonic() - begin), seed)
    bound = max(bound, found.bound)
    return replace(found if judge(problem, found).value < value else start, bound=min(bound, value))


def _placements(problem: Problem) -> float:
    return prod(len(problem.allowed(task)) for task in problem.graph)


def _best_of_all(problem: Problem) -> Proposal:
    tasks = list(problem.graph)
    every = product(*(problem.allowed(task) for task in tasks))
    best = min(
        (Proposal(dict(zip(tasks, where, strict=True))) for where in every), key=lambda p: judge(problem, p).value
    )
    return replace(best, bound=judge(problem, best).value)
