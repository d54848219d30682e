"""``cpop``: critical path on a processor: the longest path stays on one device.

Topcuoglu, Hariri and Wu 2002, https://doi.org/10.1109/71.993206. Tasks of the critical path go to the device that
runs all of it fastest, the others where they finish first. O(edges x devices + tasks x log tasks).
"""

from __future__ import annotations

from math import inf

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import (
    mean_times,
    priority_order,
    schedule_in_order,
    task_lists,
    upward_ranks,
)

from .. import strategy
from ..common.repair import repaired_proposal


@strategy("cpop")
def cpop(problem: Problem) -> Proposal:
    """Place the critical path on its fastest device, and every other task where it finishes first.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(cpop(problem).placement.values())
    {'gpu:y'}
    """
    lists = task_lists(problem)
    up, means = upward_ranks(lists), mean_times(lists)
    down = [0.0] * len(up)
    for i in range(len(down)):
        for j, mean in lists.succs[i]:
            down[j] = max(down[j], down[i] + means[i] + mean)
    longest = max(up, default=0.0)
    on_path = [i for i in range(len(up)) if up[i] + down[i] >= longest * (1 - 1e-9)]
    totals = [sum(lists.times[i][d] for i in on_path) for d in range(len(lists.devices))]
    device = min(range(len(totals)), key=lambda d: totals[d])
    fixed = dict.fromkeys(on_path, device) if totals[device] < inf else {}
    order = priority_order(lists, [a + b for a, b in zip(up, down, strict=True)])
    return repaired_proposal(problem, lists, schedule_in_order(lists, order, fixed=fixed))
