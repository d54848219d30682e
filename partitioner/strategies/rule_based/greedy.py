"""``greedy``: the first device in a list of priorities that can run the task.

What ONNX Runtime does with its list of execution providers and OpenVINO with HETERO: nothing is weighed. Complexity
O(tasks x devices).
"""

from __future__ import annotations

from trisect.runtime.errors import UnknownDevice
from trisect.scheduler.problem.problem import Problem

from .. import strategy
from ..common.repair import obeying


@strategy("greedy")
def greedy(problem: Problem, priorities: str = "") -> dict[str, str]:
    """Give each task to the first device that takes it.

    Parameters
    ----------
    problem : Problem
    priorities : str, optional
        Device ids, comma-separated, the first most wanted; those not named follow, NPUs before GPUs before CPUs.

    Raises
    ------
    UnknownDevice

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> set(greedy(problem).values()), set(greedy(problem, "cpu:x").values())
    ({'gpu:y'}, {'cpu:x'})
    """
    named = [part for part in priorities.split(",") if part]
    for part in named:
        if part not in problem.device_ids:
            raise UnknownDevice(f"no device {part!r} here", remedy=f"there are: {', '.join(problem.device_ids)}")
    kinds = {"npu": 0, "gpu": 1, "cpu": 2}
    rest = sorted((d for d in problem.devices if d.id not in named), key=lambda d: kinds[d.kind])
    order = {device: i for i, device in enumerate([*named, *(d.id for d in rest)])}
    return obeying(problem, {task: min(problem.allowed(task), key=lambda d: order[d]) for task in problem.graph})
