"""``annealing``: a search that at first also goes uphill, and ever less.

Kirkpatrick, Gelatt and Vecchi 1983, https://doi.org/10.1126/science.220.4598.671. As `local_search`, with changes for
the worse accepted by chance while it is hot.
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import improve, quick_start


@strategy("annealing")
def annealing(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Anneal from the better of list scheduling and a chain; the same seed draws the same lots.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> set(annealing(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    return improve(problem, quick_start(problem), time_limit_s, seed, heat=0.05)
