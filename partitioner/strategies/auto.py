"""``auto``: the best that the other strategies find in the time; never worse than the best single device."""

from __future__ import annotations

from dataclasses import replace

from trisect.scheduler.problem import Problem
from trisect.scheduler.solution import Proposal

from . import TIME_LIMIT_S, strategy
from .exact import exact
from .improving import improve, quick_start
from .judging import judge, simple_bound

_QUICK = ("opclass", "heft", "peft", "multilevel", "balanced", "dp-chain")
_CHANGES = 20_000
"""Changes tried on a graph of one task; a graph of a hundred gets a hundredth, each costing a hundred times as much."""
_CLEARLY = 0.99


@strategy("auto")
def auto(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Try every quick strategy, then search from the best.

    A model's problem is searched for a fixed number of changes, so that the same seed gives the same plan; that of a
    benchmark for the whole time, as `exact` does. Of equals the simplest is kept: a split must gain something.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 3.5, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0)
    >>> set(auto(problem).placement.values())
    {'gpu:y'}
    """
    if problem.rules.convention != "segments":
        return exact(problem, time_limit_s=time_limit_s, seed=seed)
    singles = tuple(f"single:{device}" for device in problem.device_ids)
    start = quick_start(problem, (*singles, *_QUICK))
    value, bound = judge(problem, start).value, simple_bound(problem)
    if value > bound:
        steps = _CHANGES // max(1, len(problem.graph))
        found = improve(problem, start, time_limit_s, seed, heat=0.0, steps=steps)
        if judge(problem, found).value < _CLEARLY * value:
            start = found
    return replace(start, bound=bound)
