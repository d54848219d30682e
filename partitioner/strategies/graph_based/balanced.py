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
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> balanced(problem)
    {'a': 'cpu:x', 'b': 'gpu:y', 'c': 'gpu:y', 'd': 'gpu:y'}
    """
    lists = task_lists(problem)
    overheads = [problem.overhead(device) for device in lists.devices]
    return repair(problem, lists.placement(interval_placement(lists, overheads, keep_order=True)))
