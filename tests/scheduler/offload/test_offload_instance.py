"""Contraction of an instance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import offload_problems
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=60)
@given(st.one_of(offload_problems("throughput"), offload_problems("latency")))
def test_contraction_keeps_the_optimum(problem: Problem) -> None:
    whole, contracted = make_instance(problem, contract=False), make_instance(problem)
    assert contracted.count <= whole.count

    def best(instance: object) -> float:
        from itertools import product

        result = []
        for where in product(range(contracted.devices), repeat=instance.count):  # type: ignore[attr-defined]
            placement = instance.to_placement(where)  # type: ignore[attr-defined]
            if not offload_violations(problem, placement):
                result.append(offload_value(problem, placement))
        return min(result)

    assert best(contracted) == pytest.approx(best(whole))
