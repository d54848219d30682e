"""The strategy `dp-chain` against the optimum."""

from __future__ import annotations

from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=20)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_dp_chain_is_never_better_than_the_optimum(problem: Problem) -> None:
    try:
        result = propose(problem, "dp-chain")
    except InfeasibleProblem:
        return
    assert evaluate_proposal(problem, result).value >= best_of_all(problem) - 1e-9
