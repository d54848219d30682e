"""``etf``: earliest task first: the ready task that can start soonest.

Hwang, Chow, Anger and Lee 1989, https://doi.org/10.1137/0218016. Among ready tasks and devices, the pair that can start
first; of equal ones, the task with the highest upward rank. O(tasks x ready x devices + edges x devices).
"""

from __future__ import annotations

from math import inf

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import ListSchedule, task_lists, upward_ranks

from .. import strategy
from ..common.repair import repaired_proposal


@strategy("etf")
def etf(problem: Problem) -> Proposal:
    """Start the task that can start first on any device.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> sorted(etf(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    width = len(lists.devices)
    ranks = upward_ranks(lists)
    waiting = [len(before) for before in lists.preds]
    free = [0.0] * width
    finish = [0.0] * len(waiting)
    start, where = list(finish), [0] * len(waiting)
    arrives: dict[int, list[float]] = {i: [0.0] * width for i, count in enumerate(waiting) if not count}
    while arrives:
        # A device may start soon and finish late: among pairs with equal starts, the shorter task is first.
        begin, _, _, i, d = min(
            (max(free[d], at), time, -ranks[i], i, d)
            for i, row in arrives.items()
            for d, (at, time) in enumerate(zip(row, lists.times[i], strict=True))
            if time < inf
        )
        del arrives[i]
        start[i], where[i] = begin, d
        finish[i] = free[d] = begin + lists.times[i][d]
        for j, _ in lists.succs[i]:
            waiting[j] -= 1
            if not waiting[j]:
                arrives[j] = [
                    max(finish[p] + table[where[p] * width + e] for p, table in lists.preds[j]) for e in range(width)
                ]
    return repaired_proposal(problem, lists, ListSchedule(where, start, max(finish, default=0.0)))
