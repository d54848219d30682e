"""``random``: a draw of lots, what every strategy has to beat.

Complexity O(tasks x devices).
"""

from __future__ import annotations

from random import Random

from trisect.scheduler.problem.problem import Problem

from .. import strategy
from ..common.repair import obeying


@strategy("random")
def random(problem: Problem, *, seed: int = 0) -> dict[str, str]:
    """Draw a device for each task among those that can run it.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> random(problem, seed=1) == random(problem, seed=1)
    True
    """
    draw = Random(seed)
    return obeying(problem, {task: draw.choice(problem.allowed(task)) for task in problem.graph})
