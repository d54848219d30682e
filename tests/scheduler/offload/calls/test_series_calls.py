"""Bound and placement of graphs in series."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import best_of_all, diamond, offload_problems
from trisect.scheduler.offload.calls.call_latency import latency
from trisect.scheduler.offload.calls.series_calls import best_series
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit


def solve(problem: Problem, *, contract: bool = False) -> tuple[float, float]:
    instance = make_instance(problem, contract=contract)
    bound, where = best_series(instance, TimeLimit(60.0))
    return bound, inf if where is None else latency(instance, where)


@settings(max_examples=80)
@given(offload_problems("latency"), st.booleans())
def test_the_optimum_lies_between_bound_and_placement(problem: Problem, contract: bool) -> None:
    bound, value = solve(problem, contract=contract)
    assert bound <= best_of_all(problem) + 1e-9 <= value + 2e-9


@settings(max_examples=40)
@given(offload_problems("latency", colocation=True), st.booleans())
def test_colocated_tasks_are_left_alone_or_bounded(problem: Problem, contract: bool) -> None:
    bound, value = solve(problem, contract=contract)
    assert bound <= best_of_all(problem) + 1e-9 <= value + 2e-9


@settings(max_examples=40)
@given(offload_problems("latency", chain=True))
def test_a_chain_is_solved(problem: Problem) -> None:
    best = best_of_all(problem)
    assert solve(problem) == (pytest.approx(best), pytest.approx(best))


def test_a_diamond_between_separators_is_solved() -> None:
    problem = replace(diamond(), objective="latency")
    assert solve(problem) == (pytest.approx(best_of_all(problem)),) * 2
