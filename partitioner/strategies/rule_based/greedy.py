"""``greedy``: the first device in a priority list that can run the task.

As ONNX Runtime does with its list of execution providers and OpenVINO with HETERO: costs are ignored. For priority
lists in general see Graham 1969, https://doi.org/10.1137/0117039. O(tasks x devices).
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem

from .. import strategy
from ..common.repair import repair


@strategy("greedy")
def greedy(problem: Problem, priorities: str = "") -> dict[str, str]:
    """Place each task on the first device that can run it.

    Parameters
    ----------
    priorities : str, optional
        Device ids, comma-separated, the most preferred first; the others follow, NPUs before GPUs before CPUs.

    Raises
    ------
    UnknownDevice

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(greedy(problem).values()), set(greedy(problem, "cpu:x").values())
    ({'gpu:y'}, {'cpu:x'})
    """
    named = [part for part in priorities.split(",") if part]
    for device in named:
        problem.column(device)  # refuses unknown ones
    kinds = {"npu": 0, "gpu": 1, "cpu": 2}
    rest = sorted((d for d in problem.devices if d.id not in named), key=lambda d: kinds[d.kind])
    order = {device: i for i, device in enumerate([*named, *(d.id for d in rest)])}
    return repair(problem, {task: min(problem.allowed(task), key=lambda d: order[d]) for task in problem.graph})
