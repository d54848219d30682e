"""``roundrobin``: each task to the next device in turn.

Complexity O(tasks x devices).
"""

from __future__ import annotations

import networkx as nx

from trisect.scheduler.problem.problem import Problem

from .. import strategy
from ..common.repair import obeying


@strategy("roundrobin")
def roundrobin(problem: Problem) -> dict[str, str]:
    """Deal tasks out in topological order.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> roundrobin(problem)
    {'a': 'cpu:x', 'b': 'gpu:y', 'c': 'cpu:x', 'd': 'gpu:y'}
    """
    placement = {}
    for i, task in enumerate(nx.topological_sort(problem.graph)):
        allowed = problem.allowed(task)
        placement[task] = allowed[i % len(allowed)]
    return obeying(problem, {task: placement[task] for task in problem.graph})
