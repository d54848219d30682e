"""The exact pipeline, against enumeration."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.pipelines.downsets import best_chain
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=60)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_downsets_find_the_best_pipeline(problem: Problem) -> None:
    instance = make_instance(problem)
    finished, value, where = best_chain(instance, 1e6, TimeLimit(60))
    assert finished
    assert where is not None
    assert offload_violations(problem, instance.to_placement(where)) == []
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(value)
    assert value == pytest.approx(best_of_all(problem))
