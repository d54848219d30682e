"""The task-wise relaxation of segments, against enumeration."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import (
    value_of,
)
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=20)
@given(problems(largest=6, devices=2))
def test_the_relaxation_is_a_bound_of_segments(case: tuple[Problem, dict[str, str]]) -> None:
    from dataclasses import replace

    from trisect.scheduler.bounds.exact_makespan import solve_task_schedule

    for objective in ("latency", "throughput"):
        problem = replace(case[0], objective=objective)
        every = [
            dict(zip(problem.graph, w, strict=True)) for w in product(problem.device_ids, repeat=len(problem.graph))
        ]
        best = min(value_of(problem, placement) for placement in every)
        start = every[0]
        assert solve_task_schedule(problem, start, value_of(problem, start), 0.1, 0).bound <= best + 1e-6
