"""The best pipeline along an order, against the definition of its value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import offload_problems
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.pipelines.pipeline_chain import best_intervals, depth_first_order
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=40)
@given(offload_problems("throughput", contiguous=True))
def test_the_value_of_a_pipeline_matches_its_definition(problem: Problem) -> None:
    instance = make_instance(problem)
    result = best_intervals(instance, depth_first_order(instance))
    if result is not None:
        assert offload_violations(problem, instance.to_placement(result[1])) == []
        assert offload_value(problem, instance.to_placement(result[1])) == pytest.approx(result[0])
