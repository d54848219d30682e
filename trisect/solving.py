"""Solving placement problems that need not come from a model: what researchers compare heuristics with."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.partitioner.strategies import TIME_LIMIT_S, propose
from trisect.partitioner.strategies.common.placement_value import certificate, closed_bound, evaluate_proposal
from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Solution
from trisect.scheduler.problem.time_limit import TimeLimit


def solve(
    problem: Problem,
    strategy: str = "auto",
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
) -> Solution:
    """Ask a strategy for a placement and judge it by the problem's own rules.

    Parameters
    ----------
    problem : Problem
        Read by `Problem.read`, or made by `Problem.of`.
    strategy : str
        ``"exact"``, ``"auto"``, ``"heft"``, or one that you registered.
    constraints : Constraints, mapping or path of a TOML file, optional
        What must or must not go where; see `trisect.partitioner.problem.constraints`.
    time_limit_s : float
        For strategies that search.
    seed : int
        For strategies that draw lots.

    Returns
    -------
    Solution
        ``.placement``, ``.value``, ``.bound``, ``.bound_by``, ``.gap``, ``.violations`` (empty when valid),
        ``.schedule``.

    Raises
    ------
    UnknownStrategy
    InfeasibleProblem
        When the strategy finds nothing, or the constraints leave nothing to find.
    InvalidInput
        For a time limit that is none, a constraint that matches nothing, or an objective that a benchmark lacks.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 2.0, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> solution = solve(problem, "exact")
    >>> solution.value, solution.gap, solution.violations
    (4.0, 0.0, ())
    """
    if not isfinite(time_limit_s) or time_limit_s <= 0:
        raise InvalidInput(f"a time limit of {time_limit_s} s", remedy="give seconds above zero")
    if problem.rules.convention != "segments" and problem.objective not in ("latency", "throughput"):
        raise InvalidInput(
            f"a benchmark problem has no {problem.objective}", remedy="its objective is latency or throughput"
        )
    problem = constrained(problem, read_constraints(constraints))
    clock = TimeLimit(time_limit_s)
    proposal = propose(problem, strategy, time_limit_s=time_limit_s, seed=seed)
    seconds = clock.elapsed_s()
    evaluation = evaluate_proposal(problem, proposal)
    bound = certificate(problem, proposal)
    return Solution(
        placement=dict(proposal.placement),
        value=evaluation.value,
        bound=closed_bound(bound.value, evaluation.value),
        bound_by=bound.by,
        violations=evaluation.violations,
        schedule=evaluation.schedule,
        strategy=strategy,
        is_cut_short=proposal.is_cut_short,
        seconds=seconds,
    )
