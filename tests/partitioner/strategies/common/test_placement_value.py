"""Evaluation of proposals that come with a cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from trisect.partitioner.segments.convex_cut import cut, divide
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.simulate import evaluate


@settings(max_examples=30)
@given(problems(largest=8))
def test_a_known_cut_is_used_where_it_is_better(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    whole = cut(problem.graph, placement)
    divided = divide(problem.graph, whole)
    values = [evaluate_proposal(problem, Proposal(placement, parts=tuple(parts))).value for parts in (whole, divided)]
    assert min(values) == pytest.approx(min(evaluate(problem, whole)[0], evaluate(problem, divided)[0]))
    wrong = tuple(reversed(whole)) + tuple(whole)
    assert (
        evaluate_proposal(problem, Proposal(placement, parts=wrong)).value
        == evaluate_proposal(problem, Proposal(placement)).value
    )
