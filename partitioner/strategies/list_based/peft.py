"""``peft``: predict earliest finish time: list scheduling that looks ahead.

Arabnejad and Barbosa 2014, https://doi.org/10.1109/TPDS.2013.57. The optimistic cost table gives, for each task and
device, the least time from there to the end; tasks are ordered by its mean, devices by finish time plus table.
O(edges x devices^2).
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import by_rank, mean_times, schedule_in_order, task_lists

from .. import strategy
from ..common.repair import repaired_proposal


@strategy("peft")
def peft(problem: Problem) -> Proposal:
    """Place each task where its finish time plus the optimistic cost to the end is least.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> sorted(peft(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    width = len(lists.devices)
    table: list[list[float]] = [[0.0] * width for _ in lists.tasks]
    for i in range(len(lists.tasks) - 1, -1, -1):
        for j, mean in lists.succs[i]:
            ahead = [cost + time for cost, time in zip(table[j], lists.times[j], strict=True)]
            away = min(ahead) + mean
            row = table[i]
            for d in range(width):
                row[d] = max(row[d], min(ahead[d], away))
    means = mean_times(lists)
    ranks = [0.0] * len(table)
    for i in range(len(table) - 1, -1, -1):
        # Falling along every edge, so that the order is topological: the published rank alone need not be so.
        below = max((ranks[j] for j, _ in lists.succs[i]), default=0.0)
        ranks[i] = max(sum(table[i]) / width + means[i], below)
    return repaired_proposal(problem, lists, schedule_in_order(lists, by_rank(ranks), bias=table))
