"""``dp-chain``: the best pipeline along a linear order of the graph.

Tarnawski et al. 2020, https://doi.org/10.48550/arXiv.2006.16423 (DPL). Where accelerators pay for their transfers, a
dynamic programme over intervals, O(tasks^2 x devices); else bisection over the load, with the devices in their best
order, O((tasks + 2^kinds) x log precision).
"""

from __future__ import annotations

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.bounds.interval_partition import interval_placement
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.pipelines.pipeline_chain import best_intervals, depth_first_order
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.list_scheduling import task_lists

from .. import strategy
from ..common.repair import repair


@strategy("dp-chain")
def dp_chain(problem: Problem) -> dict[str, str]:
    """Cut one topological order into an interval per device that minimise the largest load.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> dp_chain(problem)
    {'a': 'gpu:y', 'b': 'gpu:y', 'c': 'gpu:y', 'd': 'cpu:x'}
    """
    if problem.rules.convention == "offload":
        instance = make_instance(problem)
        pipeline = best_intervals(instance, depth_first_order(instance))
        if pipeline is None:
            raise InfeasibleProblem("no pipeline along this order fits the devices", remedy="use exact or auto")
        return repair(problem, instance.to_placement(pipeline[1]))
    lists = task_lists(problem)
    overheads = [problem.overhead(device) for device in lists.devices]
    return repair(problem, lists.placement(interval_placement(lists, overheads)))
