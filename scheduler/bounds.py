"""What no placement can beat: lower bounds of an objective, the certificate that a plan carries.

A bound holds for every placement and every cut, so it may only use what all of them pay: each task at least its time on
its quickest device, in the order of the graph, and all of them somewhere.
"""

from __future__ import annotations

import networkx as nx

from .problem import Problem, TaskGraph


def lower_bound(problem: Problem) -> float:
    """Seconds below which the problem's objective cannot go.

    Examples
    --------
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> times = {"x": {"cpu:a": 1.0, "gpu:b": 3.0}, "y": {"cpu:a": 5.0, "gpu:b": 2.0}}
    >>> lower_bound(Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.5))
    3.0
    """
    quickest = {node: min(times) for node, times in problem.times_s.items()}
    load_s = sum(quickest.values()) / len(problem.devices)
    if problem.objective == "throughput":
        return max([load_s, *quickest.values()], default=0.0)
    overhead_s = min((problem.overhead(device) for device in problem.device_ids), default=0.0) if quickest else 0.0
    return max(critical_path_s(problem.graph, quickest), load_s) + overhead_s


def critical_path_s(graph: TaskGraph, times_s: dict[str, float]) -> float:
    """Length of the longest path, each node taking its time and edges none."""
    finish: dict[str, float] = {}
    for node in nx.topological_sort(graph):
        finish[node] = times_s[node] + max((finish[p] for p in graph.predecessors(node)), default=0.0)
    return max(finish.values(), default=0.0)
