"""The strategy `exact` against enumeration."""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import all_values, constrained_problems, task_problems, value_of
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import certificate, evaluate_proposal
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=25)
@given(problems(largest=6, devices=2))
def test_exact_is_the_optimum_of_segments(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    every = product(problem.device_ids, repeat=len(problem.graph))
    best = min(value_of(problem, dict(zip(problem.graph, where, strict=True))) for where in every)
    result = propose(problem, "exact", time_limit_s=5)
    assert evaluate_proposal(problem, result).value == pytest.approx(best)
    assert result.bound == pytest.approx(best)


def best_makespan(problem: Problem) -> float:
    """List scheduling on equal processors reaches the optimum for some order of the tasks."""
    best = float("inf")
    for order in permutations(problem.graph):
        position = {node: i for i, node in enumerate(order)}
        if any(position[a] > position[b] for a, b in problem.graph.edges):
            continue
        free, finish = [0.0] * len(problem.devices), {}
        for node in order:
            begin = max([free[0], *(finish[p] for p in problem.graph.predecessors(node))])
            finish[node] = begin + problem.times_s[node][0]
            # Whichever processor frees last before `begin` leaves the others for earlier tasks.
            chosen = max((d for d in range(len(free)) if free[d] <= begin), key=lambda d: free[d])
            free[chosen] = finish[node]
            free.sort()
        best = min(best, max(finish.values()))
    return best


@settings(max_examples=15)
@given(task_problems(largest=6))
def test_exact_is_the_optimum_of_task_schedules(problem: Problem) -> None:
    result = propose(problem, "exact", time_limit_s=1)
    assert evaluate_proposal(problem, result).value == pytest.approx(best_makespan(problem))
    assert result.bound == pytest.approx(best_makespan(problem))


@settings(max_examples=25)
@given(constrained_problems(largest=6))
def test_exact_is_the_optimum_of_every_objective_with_constraints(problem: Problem) -> None:
    values = all_values(problem)
    if not values:
        with pytest.raises(InfeasibleProblem):
            propose(problem, "exact")
        return
    result = propose(problem, "exact")
    assert evaluate_proposal(problem, result).value == pytest.approx(min(values))
    assert certificate(problem, result).value == pytest.approx(min(values))
