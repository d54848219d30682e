"""The strategy `auto` against each device alone."""

from __future__ import annotations

from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import (
    placed,
)
from trisect.partitioner.segments.convex_cut import best_cut
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=15)
@given(problems())
def test_auto_is_never_worse_than_a_single_device(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    value = best_cut(problem, placed(problem, "auto"))[1]
    for name in (*(f"single:{d}" for d in problem.device_ids), "opclass"):
        assert value <= best_cut(problem, placed(problem, name))[1]
