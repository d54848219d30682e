"""``trisect.solve``: solve a placement problem, of a model or of a published benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.partitioner.strategies import TIME_LIMIT_S, propose
from trisect.partitioner.strategies.common.placement_value import certificate, closed_bound, evaluate_proposal
from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit, check_time_limit
from trisect.scheduler.problem.solution import Solution


def solve(
    problem: Problem,
    strategy: str = "auto",
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
) -> Solution:
    """Place a problem's tasks by a strategy, and evaluate the placement by the rules of the problem.

    Parameters
    ----------
    problem : Problem
        Read by `Problem.read`, or built by `Problem.of`.
    strategy : str
        ``"exact"``, ``"auto"``, ``"heft"``, or one that you registered.
    constraints : Constraints, mapping or path of a TOML file, optional
        Which tasks must or must not run where; see `Constraints`.
    time_limit_s : float
        Search time of strategies that search.
    seed : int
        Random seed of stochastic strategies.

    Returns
    -------
    Solution
        ``.placement``, ``.value``, ``.bound``, ``.bound_by``, ``.gap``, ``.violations`` (empty when valid),
        ``.schedule``.

    Raises
    ------
    UnknownStrategy
    InfeasibleProblem
        When the strategy finds no placement, or the constraints allow none.
    InvalidInput
        For an invalid time limit, a constraint that matches nothing, or an objective that a benchmark does not have.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> solution = solve(problem, "exact")
    >>> solution.value, solution.gap, solution.violations
    (4.0, 0.0, ())
    """
    check_time_limit(time_limit_s)
    if problem.rules.convention != "segments" and problem.objective not in ("latency", "throughput"):
        raise InvalidInput(
            f"expected latency or throughput as the objective of a benchmark, found {problem.objective}",
            remedy="read the benchmark with another objective",
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
