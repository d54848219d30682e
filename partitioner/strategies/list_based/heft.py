"""``heft``: heterogeneous earliest finish time, the reference heuristic of list scheduling.

Topcuoglu, Hariri and Wu 2002, https://doi.org/10.1109/71.993206. Tasks by falling upward rank, each on the device that
finishes it first, without insertion into gaps. O(edges x devices + tasks x log tasks).
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.list_scheduling import by_rank, schedule_in_order, task_lists, upward_ranks

from ...graph.paused_gc import paused_gc
from .. import strategy
from ..common.repair import repaired_proposal


@strategy("heft")
@paused_gc()
def heft(problem: Problem) -> Proposal:
    """Place each task where it finishes first, in the order of falling upward rank.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> sorted(heft(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    return repaired_proposal(problem, lists, schedule_in_order(lists, by_rank(upward_ranks(lists))))
