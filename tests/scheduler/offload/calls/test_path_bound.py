"""The bound of the latency."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.scheduler.offload.calls.path_bound import path_bound
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=150)
@given(offload_problems("latency"), st.booleans())
def test_nothing_beats_the_path_bound(problem: Problem, contract: bool) -> None:
    assert path_bound(make_instance(problem, contract=contract)) <= best_of_all(problem) + 1e-9


@settings(max_examples=60)
@given(offload_problems("latency", chain=True))
def test_the_path_bound_is_the_optimum_of_a_chain(problem: Problem) -> None:
    assert path_bound(make_instance(problem, contract=False)) == pytest.approx(best_of_all(problem))
