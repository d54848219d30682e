"""The portfolio of the offload convention, against enumeration."""

from __future__ import annotations

from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import best_of_all, by_way_of_host, offload_problems
from trisect.runtime.device import Device
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.portfolio import solve_offload
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules


def _check_exact(problem: Problem) -> None:
    optimum = best_of_all(problem)
    result = solve_offload(problem, 1.0, seed=0)
    assert offload_violations(problem, result.placement) == []
    assert not result.is_cut_short
    assert offload_value(problem, result.placement) == pytest.approx(optimum, abs=1e-6)
    assert result.bound <= optimum + 1e-6


@settings(max_examples=15)
@given(st.one_of(offload_problems("throughput"), offload_problems("throughput", contiguous=True, training=True)))
def test_throughput_is_solved_to_the_optimum(problem: Problem) -> None:
    _check_exact(problem)


@settings(max_examples=15)
@given(offload_problems("latency"))
def test_latency_is_solved_to_the_optimum(problem: Problem) -> None:
    _check_exact(problem)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_the_same_seed_gives_the_same_proposal(objective: Objective) -> None:
    random = Random(5)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for i in range(1, 40):
        for j in random.sample(range(i), min(i, 2)):
            graph.add_edge(f"n{j}", f"n{i}", tensors={f"t{j}": 1 + j % 4})
    times = {name: {"cpu:0": random.uniform(20, 60), "npu:0": random.uniform(1, 5)} for name in graph}
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "") for i in range(3))]
    problem = Problem.of(
        graph,
        devices,
        lambda node, device: times[node]["cpu:0" if device == "cpu:0" else "npu:0"],
        by_way_of_host(devices),
        objective=objective,
        rules=Rules(convention="offload"),
    )
    first, second = (solve_offload(problem, 0.2, seed=1) for _ in range(2))
    assert first == second
    assert not first.is_cut_short
