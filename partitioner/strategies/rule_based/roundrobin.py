"""``roundrobin``: each task to the next device in turn.

A baseline without costs; for static scheduling in general see Kwok and Ahmad 1999,
https://doi.org/10.1145/344588.344618. O(tasks x devices).
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.task_graph import topological_order

from .. import strategy
from ..common.repair import repair


@strategy("roundrobin")
def roundrobin(problem: Problem) -> dict[str, str]:
    """Assign the tasks in topological order to the devices in turn.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> roundrobin(problem)
    {'a': 'cpu:x', 'b': 'gpu:y', 'c': 'cpu:x', 'd': 'gpu:y'}
    """
    placement = {}
    for i, task in enumerate(topological_order(problem.graph)):
        allowed = problem.allowed(task)
        placement[task] = allowed[i % len(allowed)]
    return repair(problem, placement)
