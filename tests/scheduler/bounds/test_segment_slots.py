"""Proofs of the slot model by both solvers, against enumeration."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings

from tests.partitioner.strategies.strategy_problems import (
    all_values,
    constrained_problems,
    weighted_problems,
)
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.bounds.segment_slots import solve_segments
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.validate import validate_parts


@pytest.mark.parametrize("solver", ["cp", "milp"])
@settings(max_examples=12)
@given(problem=weighted_problems(largest=5))
def test_both_solvers_prove_the_optimum_of_all_cuts(solver: str, problem: Problem) -> None:
    best = min(all_values(problem))
    result = solve_segments(problem, None, inf, 20.0, 0, solver)  # type: ignore[arg-type]
    assert result is not None
    assert result.parts is not None
    assert validate_parts(problem, result.placement, result.parts) == []
    assert result.bound <= best * (1 + 1e-6)
    # Every cut is looked at, not only those that a placement is usually cut into: it may be better, never worse.
    if problem.objective != "memory":  # whose tensors the solvers leave out
        assert evaluate_proposal(problem, result).value <= best * (1 + 1e-4)
    if problem.objective in ("throughput", "energy"):
        assert result.bound == pytest.approx(evaluate_proposal(problem, result).value, rel=1e-3)


@settings(max_examples=12)
@given(constrained_problems(largest=5))
def test_infeasibility_is_claimed_only_where_it_holds(problem: Problem) -> None:
    try:
        solve_segments(problem, None, inf, 20.0, 0, "cp")
    except InfeasibleProblem:
        assert all_values(problem) == []
