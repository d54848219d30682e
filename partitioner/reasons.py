"""Why a task is where it is, in one line of numbers that a user can check."""

from __future__ import annotations

from trisect.scheduler.problem import Placement, Problem, crossing_time_s


def reasons(problem: Problem, placement: Placement) -> dict[str, str]:
    """For each task, its cost here against the next best device, the neighbours staying where they are.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.devices import Device
    >>> graph = nx.DiGraph([("a", "b")])
    >>> graph.edges["a", "b"]["tensors"] = {"t": 8}
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {"a": {"cpu:x": 0.001, "gpu:y": 0.002}, "b": {"cpu:x": 0.0012, "gpu:y": 0.0008}}
    >>> problem = Problem.of(graph, devices, times, lambda size_bytes, src, dst: 0.0001)
    >>> reasons(problem, {"a": "cpu:x", "b": "gpu:y"})["b"]
    'gpu:y 0.8 ms + 0.1 ms copy < cpu:x 1.2 ms'
    """
    return {task: _reason(problem, placement, task) for task in problem.graph}


def _reason(problem: Problem, placement: Placement, task: str) -> str:
    here = placement[task]
    others = [d for d in problem.allowed(task) if d != here]
    if len(problem.devices) == 1:
        return f"{here} {_ms(problem.time(task, here))}: the only device"
    if not others:
        return f"{here}: the only device that can or may run it"
    copies = {d: crossing_time_s(problem, placement, {task}, d) for d in (here, *others)}
    totals = {d: problem.time(task, d) + copies[d] for d in copies}
    rival = min(others, key=lambda d: totals[d])
    mine, theirs = (
        f"{d} {_ms(problem.time(task, d))}" + (f" + {_ms(copies[d])} copy" if copies[d] > 0 else "")
        for d in (here, rival)
    )
    if totals[here] < totals[rival]:
        return f"{mine} < {theirs}"
    if totals[here] == totals[rival]:
        return f"{mine} = {theirs}"
    return f"{mine} > {theirs}, but the strategy keeps it with the rest"


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:.3g} ms"
