"""The problem of the examples in docstrings: four tasks in a diamond on a CPU and a GPU."""

from __future__ import annotations

import networkx as nx

from trisect.runtime.device import Device

from .problem import Problem


def diamond(cpu_s: float = 2.0, gpu_s: float = 1.0) -> Problem:
    """Return a -> b, c -> d with equal times of all tasks and free transfers.

    Examples
    --------
    >>> diamond().device_ids, diamond().time("a", "cpu:x")
    (['cpu:x', 'gpu:y'], 2.0)
    """
    graph: nx.DiGraph[str] = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    return Problem.of(graph, devices, {task: {"cpu:x": cpu_s, "gpu:y": gpu_s} for task in graph})
