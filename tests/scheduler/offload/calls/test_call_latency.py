"""Latency with one call per accelerator, against its definition."""

from __future__ import annotations

from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import by_way_of_host, offload_problems
from trisect.runtime.device import Device
from trisect.scheduler.offload.calls.call_latency import anneal_calls, latency
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=40)
@given(offload_problems("latency", largest=5))
def test_the_latency_matches_its_definition(problem: Problem) -> None:
    instance = make_instance(problem)
    value, where = anneal_calls(instance, [0] * instance.count, Random(0), TimeLimit(60), 500)
    assert offload_violations(problem, instance.to_placement(where)) == []
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(value)
    assert latency(instance, where) == pytest.approx(value)


def test_a_task_by_itself_that_the_host_runs_in_no_time_takes_an_accelerator_its_time() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("a")
    devices = [Device("cpu:0", "cpu", "t", ""), Device("npu:0", "npu", "t", "")]
    times = {"a": {"cpu:0": 0.0, "npu:0": 2.0}}
    rules = Rules(convention="offload")
    instance = make_instance(Problem.of(graph, devices, times, by_way_of_host(devices), rules=rules))
    assert (latency(instance, [0]), latency(instance, [1])) == (0.0, 2.0)
