"""A Pareto front of random problems is what enumerating all placements finds, and no point of it is dominated."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.partitioner.segments.test_convex_cut import DEVICES
from tests.partitioner.strategies.strategy_problems import OBJECTIVES, weighted_problems
from trisect.pareto_plans import pareto
from trisect.partitioner.planning.pareto_front import pareto_front
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.runtime.errors import InvalidInput, PowerUnknown
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.simulate import evaluate


@settings(max_examples=20)
@given(weighted_problems(largest=6), st.permutations(OBJECTIVES))
def test_a_front_is_what_trying_all_finds(problem: Problem, objectives: list[Objective]) -> None:
    first, second = objectives[:2]
    points = set()
    for where in product(problem.device_ids, repeat=len(problem.graph)):
        evaluation = evaluate_proposal(
            replace(problem, objective=first), Proposal(dict(zip(problem.graph, where, strict=True)))
        )
        points.add((evaluation.value, evaluate(replace(problem, objective=second), evaluation.parts)[0]))
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    result = pareto_front(problem, (first, second))
    assert {(s.values[first], s.values[second]) for s in result} == best
    assert [s.values[first] for s in result] == sorted(s.values[first] for s in result)


@settings(max_examples=4)
@given(weighted_problems(largest=12, devices=3))
def test_a_front_that_is_searched_for_is_one(problem: Problem) -> None:
    with patch("trisect.partitioner.planning.pareto_front._ENUMERATED_MAX", 0):
        result = pareto_front(problem, ("latency", "energy"), time_limit_s=0.5)
    points = [(s.values["latency"], s.values["energy"]) for s in result]
    for solution, point in zip(result, points, strict=True):
        assert evaluate_proposal(replace(problem, objective="latency"), Proposal(solution.placement)).violations == ()
        assert not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
    energy, latency = (replace(problem, objective=objective) for objective in ("energy", "latency"))
    for name in ("single", "multilevel"):
        parts = evaluate_proposal(latency, Proposal(propose(energy, name).placement)).parts
        assert min(joules for _, joules in points) <= evaluate(energy, parts)[0] * (1 + 1e-9)


def test_a_front_needs_two_objectives_that_can_be_computed() -> None:
    problem = Problem.of(nx.DiGraph([("x", "y")]), DEVICES[:2], lambda *_: 1.0)
    with pytest.raises(InvalidInput, match="expected two different objectives, found 'latency,latency'"):
        pareto(problem, ("latency", "latency"))
    with pytest.raises(InvalidInput, match="expected two different objectives, found 'latency,beauty'"):
        pareto(problem, ("latency", "beauty"))  # type: ignore[arg-type]
    with pytest.raises(PowerUnknown, match="power of cpu:a, gpu:b is not measured, and not published"):
        pareto(problem, ("latency", "energy"))
