"""Bounds without a search, against enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import networkx as nx
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import OBJECTIVES, all_values, weighted_problems
from trisect.partitioner.segments.convex_cut import best_cut
from trisect.partitioner.strategies.common.placement_value import simple_bound
from trisect.runtime.device import Device
from trisect.scheduler.bounds.lower_bounds import best_bound
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.simulate import evaluate


@settings(max_examples=40)
@given(weighted_problems(largest=6))
def test_no_placement_beats_the_bound_of_any_objective(problem: Problem) -> None:
    for objective in OBJECTIVES:
        asked = replace(problem, objective=objective)
        assert simple_bound(asked) <= min(all_values(asked)) * (1 + 1e-9)


A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")


@settings(max_examples=40)
@given(problems(largest=6, devices=2))
def test_no_placement_beats_the_bound(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    for objective in ("latency", "throughput"):
        asked = replace(problem, objective=objective)
        bound = best_bound(asked).value
        for devices in product(problem.device_ids, repeat=len(problem.graph)):
            value = best_cut(asked, dict(zip(problem.graph, devices, strict=True)))[1]
            assert value >= bound - 1e-9


def test_bounds_are_reached_where_they_can_be() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([("a", "b")])
    problem = Problem.of(graph, [A], lambda n, d: 1.0)
    assert best_bound(problem).value == evaluate(problem, [Part("cpu:a", ("a", "b"))])[0] == 2.0
    assert best_bound(Problem.of(nx.DiGraph(), [A], {})).value == 0.0
