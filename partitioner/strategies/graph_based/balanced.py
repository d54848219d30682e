"""``balanced``: one interval of the topological order per device, in the devices' order, with balanced loads.

The chain partition of Bokhari 1988, https://doi.org/10.1109/12.75137, by bisection over the load. O(tasks x devices).
"""

from __future__ import annotations

from trisect.scheduler.bounds.interval_partition import interval_placement
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.list_scheduling import task_lists

from .. import strategy
from ..common.repair import repair


@strategy("balanced")
def balanced(problem: Problem) -> dict[str, str]:
    """Cut the order into one interval per device that take about the same time.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> balanced(problem)
    {'a': 'cpu:x', 'b': 'gpu:y', 'c': 'gpu:y', 'd': 'gpu:y'}
    """
    lists = task_lists(problem)
    overheads = [problem.overhead(device) for device in lists.devices]
    placement = lists.placement(interval_placement(lists, overheads, keep_order=True))
    return repair(problem, {task: placement[task] for task in problem.graph})
