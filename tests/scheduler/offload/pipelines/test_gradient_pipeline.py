"""Pipelines that respect the order of gradients, against their own enumeration and on a graph written out."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, by_way_of_host, offload_problems
from trisect.runtime.device import Device
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.pipelines.downsets import best_chain
from trisect.scheduler.offload.pipelines.gradient_pipeline import ordered_by_gradients
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=40)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_a_pipeline_of_the_ordered_instance_is_one_of_the_problem(problem: Problem) -> None:
    instance = make_instance(problem)
    ordered, number = ordered_by_gradients(instance)
    finished, value, where = best_chain(ordered, 1e6, TimeLimit(60))
    assert finished
    if where is not None:  # groups in a cycle may be too large for one device
        placement = instance.to_placement([where[n] for n in number])
        assert offload_violations(problem, placement) == []
        assert offload_value(problem, placement) == pytest.approx(value)
        assert value >= best_of_all(problem) - 1e-9


def test_gradients_without_forward_tasks_follow_the_forward_pass_in_reverse() -> None:
    """Two layers whose activations have gradients of their own: the second layer's gradient is read by the first's."""
    graph = nx.DiGraph([("f1", "f2"), ("f2", "b2"), ("b2", "g2"), ("g2", "b1"), ("b1", "g1")])
    for source, target in graph.edges:
        graph.edges[source, target]["tensors"] = {f"of {source}": 1}
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "") for i in range(2))]
    rules = Rules(
        convention="offload",
        contiguous=True,
        colocated=(("f1", "b1"), ("f2", "b2")),
        backward=frozenset({"b1", "b2", "g1", "g2"}),
    )
    times = {task: {"cpu:0": 9.0, "npu:0": 1.0, "npu:1": 1.0} for task in graph}
    problem = Problem.of(graph, devices, times, by_way_of_host(devices), objective="throughput", rules=rules)
    instance = make_instance(problem, contract=False)
    ordered, number = ordered_by_gradients(instance)
    of = {task: number[i] for i, tasks in enumerate(instance.groups) for task in tasks}
    # As if each gradient had a forward task: g1 before the first layer, g2 between the two.
    edges = {(p, g) for g, before in enumerate(ordered.preds) for p in before}
    assert {(of["g1"], of["f1"]), (of["f1"], of["g2"]), (of["g2"], of["f2"]), (of["f1"], of["f2"])} == edges
