"""The bound of the largest load."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.runtime.device import Device
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.packing_bound import load_bound
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Rules


@settings(max_examples=40)
@given(offload_problems("throughput"))
def test_nothing_beats_the_load_bound(problem: Problem) -> None:
    assert load_bound(make_instance(problem)) <= best_of_all(problem) + 1e-9


def test_packing_improves_on_the_sum_of_loads() -> None:
    # Seven equal tasks on three accelerators: 7 / 3 on average, but one of them gets three.
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(f"n{i}" for i in range(7))
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "") for i in range(3))]
    problem = Problem.of(
        graph,
        devices,
        lambda node, device: 50.0 if device == "cpu:0" else 1.0,
        objective="throughput",
        rules=Rules(convention="offload"),
    )
    assert load_bound(make_instance(problem)) == pytest.approx(3.0)
