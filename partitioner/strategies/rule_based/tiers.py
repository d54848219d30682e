"""``tiers``: devices in ranks: each task stays in the highest rank that can run it; within a rank `auto` decides.

Between ONNX Runtime's priority list, which ignores costs, and `auto`, which has no preference: "the NPU and the GPU as
is best, and the CPU only for what they cannot run". That is a lexicographic preference, see Fishburn 1974,
https://doi.org/10.1287/mnsc.20.11.1442. The complexity is that of `auto`; stochastic (takes a seed).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..search_based.auto import auto


@strategy("tiers")
def tiers(problem: Problem, ranks: str = "", *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Place each task in the highest rank that can run it.

    Parameters
    ----------
    ranks : str, optional
        Device ids, those of one rank separated by commas and ranks by ``|``, the most preferred first; devices not
        named come last. When left out: NPUs, then GPUs, then CPUs.
    time_limit_s, seed
        Time limit and seed of the search within the ranks.

    Raises
    ------
    UnknownDevice

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", ""), Device("npu:z", "npu", "z", "")]
    >>> times = {task: {"cpu:x": 1.0, "gpu:y": 2.0, "npu:z": 3.0} for task in "abc"} | {"d": {"cpu:x": 1.0}}
    >>> problem = Problem.of(graph, devices, times)
    >>> placement = tiers(problem, "gpu:y,npu:z|cpu:x").placement
    >>> placement["a"], placement["d"]
    ('gpu:y', 'cpu:x')
    """
    ranked = [[part for part in rank.split(",") if part] for rank in ranks.split("|")]
    named = [device for rank in ranked for device in rank]
    for device in named:
        problem.column(device)  # refuses unknown ones
    rest = [device for device in problem.devices if device.id not in named]
    kinds = ("npu", "gpu", "cpu") if not named else ("",)
    ranked += [[d.id for d in rest if kind in ("", d.kind)] for kind in kinds]
    rank_of = {device: i for i, rank in enumerate(ranked) for device in rank}
    by_column = [rank_of[device.id] for device in problem.devices]

    groups = {task: group for group in problem.rules.colocated for task in group}

    def highest_only(task: str) -> tuple[float, ...]:
        # A colocated group goes where all of it can run.
        rows = [problem.times_s[member] for member in groups.get(task, (task,))]
        able = [all(row[d] < inf for row in rows) for d in range(len(by_column))]
        highest = min((rank for rank, can in zip(by_column, able, strict=True) if can), default=None)
        row = problem.times_s[task]
        return tuple(t if can and r == highest else inf for t, r, can in zip(row, by_column, able, strict=True))

    narrowed = replace(problem, times_s={task: highest_only(task) for task in problem.graph})
    proposal = auto(narrowed, time_limit_s=time_limit_s, seed=seed)
    return replace(proposal, bound=0.0, bound_by="")  # proven within the ranks only
