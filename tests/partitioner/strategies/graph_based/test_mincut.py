"""The strategy `mincut` against enumeration."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from trisect.partitioner.strategies import propose
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=30)
@given(problems(largest=6, devices=2))
def test_mincut_has_the_least_total_time(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case

    def total(placement: dict[str, str]) -> float:
        moved = {}
        for source, target, data in problem.graph.edges(data=True):
            for tensor, size in data["tensors"].items():
                moved[tensor, placement[target]] = problem.transfer_time(size, placement[source], placement[target])
        return sum(problem.time(t, d) for t, d in placement.items()) + sum(moved.values())

    every = product(problem.device_ids, repeat=len(problem.graph))
    best = min(total(dict(zip(problem.graph, where, strict=True))) for where in every)
    assert total(dict(propose(problem, "mincut").placement)) == pytest.approx(best)
