"""``local-search``: from a good start downhill, one task or neighbourhood at a time.

Each change is judged by the problem's own rules; see `improving`. With accelerators that pay for transfers, loads are
kept up to date move by move, so that tens of thousands of changes are tried in a second. O(degree) or one simulation
a change.
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import improve, quick_start


@strategy("local-search")
def local_search(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Improve the better of list scheduling and a chain until nothing near is better, or time is up.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> set(local_search(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    return improve(problem, quick_start(problem), time_limit_s, seed, heat=0.0)
