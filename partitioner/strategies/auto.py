"""``auto``: the best that the other strategies find, by simulated value; never worse than the best single device."""

from __future__ import annotations

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem import Problem

from ..cut import best_cut
from . import place, strategy


@strategy("auto")
def auto(problem: Problem) -> dict[str, str]:
    """Try each single device and `opclass`, and keep the best; of equals the first, so the simplest.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0)
    >>> set(auto(problem).values())
    {'gpu:y'}
    """
    best: dict[str, str] | None = None
    best_value = float("inf")
    for name in [*(f"single:{device}" for device in problem.device_ids), "opclass"]:
        try:
            placement = place(problem, name)
        except InfeasibleProblem:
            continue
        _, value, _ = best_cut(problem, placement)
        if best is None or value < best_value:
            best, best_value = placement, value
    if best is None:
        raise InfeasibleProblem("no strategy finds a placement", remedy="loosen the constraints")
    return best
