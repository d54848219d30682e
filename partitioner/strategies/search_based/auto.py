"""``auto``: the best that the other strategies find in the time; never worse than the best single device."""

from __future__ import annotations

from dataclasses import replace

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import changes_for, improve, quick_start
from ..common.placement_value import certificate, judge
from ..graph_based.exact import exact

_QUICK = ("opclass", "heft", "peft", "multilevel", "balanced", "dp-chain", "mincut")
_MINCUT_TASKS = 400
"""Minimum cuts take seconds on graphs larger than this."""
_QUICK_SHARE = 0.2
"""Of the usual time limit: nobody who says nothing wants to wait for it. What is given beyond it is used."""
_CLEARLY = 0.99
_CLEARLY_SHARED, _CLEARLY_BLIND = 0.9, 0.8
"""On one processor two engines only take turns: there a split has to promise so much. Where nobody knows what crossing
between them costs, more: each cut loses fusions and layouts (1.17 to 1.4 times the whole's time were seen with
OpenVINO's HETERO)."""


@strategy("auto")
def auto(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Try every quick strategy, then search from the best.

    A model's problem is searched for a number of changes, so that the same seed gives the same plan; that of a
    benchmark for the whole time, as `exact` does. Of equals the simplest is kept: a split must gain something.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 3.5, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> set(auto(problem).placement.values())
    {'gpu:y'}
    """
    if problem.rules.convention != "segments":
        return exact(problem, time_limit_s=time_limit_s, seed=seed)
    singles = tuple(f"single:{device}" for device in problem.device_ids)
    small = len(problem.graph) <= _MINCUT_TASKS
    quick = [name for name in _QUICK if small or name != "mincut"]
    try:
        start = quick_start(problem, (*singles, *quick))
    except InfeasibleProblem:
        # Rules of thumb find nothing that keeps all constraints: only a solver knows whether there is something.
        return exact(problem, time_limit_s=time_limit_s, seed=seed)
    value, bound = judge(problem, start).value, certificate(problem, start)
    start = replace(start, bound=bound.value, bound_by=bound.by)
    if value <= bound.value:
        return _if_worth_it(problem, start, singles)
    usual_s = min(time_limit_s, TIME_LIMIT_S)
    steps = int(_QUICK_SHARE * changes_for(problem, usual_s))
    if time_limit_s > usual_s:
        steps += changes_for(problem, time_limit_s - usual_s)
    found = improve(problem, start, time_limit_s, seed, heat=0.0, steps=max(1, steps))
    if judge(problem, found).value < _CLEARLY * value:
        return _if_worth_it(problem, found, singles)
    return _if_worth_it(problem, replace(start, is_cut_short=found.is_cut_short), singles)


def _if_worth_it(problem: Problem, found: Proposal, singles: tuple[str, ...]) -> Proposal:
    """What was found, or one device alone where all devices compute on the same cores and too little is gained."""
    if problem.objective != "latency" or not set(problem.device_ids) <= problem.platform.core_sharing.groups.keys():
        return found
    try:
        alone = quick_start(problem, singles)
    except InfeasibleProblem:
        return found
    enough = _CLEARLY_SHARED if problem.boundary_costs else _CLEARLY_BLIND
    if judge(problem, found).value <= enough * judge(problem, alone).value:
        return found
    return replace(alone, bound=found.bound, bound_by=found.bound_by, is_cut_short=found.is_cut_short)
