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
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> sorted(heft(problem).placement.values())
    ['cpu:x', 'gpu:y', 'gpu:y', 'gpu:y']
    """
    lists = task_lists(problem)
    return repaired_proposal(problem, lists, schedule_in_order(lists, by_rank(upward_ranks(lists))))
