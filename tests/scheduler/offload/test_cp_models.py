"""The CP-SAT model of pipelines, against enumeration."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.scheduler.offload.cp_models import improve_loads
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.pipelines.pipeline_chain import best_intervals, depth_first_order
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=25)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_the_model_of_pipelines_finds_the_optimum(problem: Problem) -> None:
    instance = make_instance(problem)
    start = best_intervals(instance, depth_first_order(instance))
    if start is None:
        return
    where, bound = improve_loads(instance, start[1], start[0], 0.0, TimeLimit(20), 10, 0, contiguous=True)
    assert offload_violations(problem, instance.to_placement(where)) == []
    optimum = best_of_all(problem)
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(optimum)
    assert optimum - 1e-6 * max(1, optimum) <= bound <= optimum + 1e-9
