"""What a Problem refuses, and what it says of costs."""

from __future__ import annotations

from math import inf, nan

import networkx as nx
import pytest

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice, UnsupportedOperator
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem, crossing_time_s
from trisect.scheduler.problem.rules import Rules

A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")


def chain() -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 100})
    graph.add_edge("x", "z", tensors={"t": 100})
    return graph


PLATFORM = Platform(default_link=LinkCost(bytes_per_s=100))


def test_times_from_functions_and_tables_agree() -> None:
    table = {n: {"cpu:a": 1.0, "gpu:b": 2.0} for n in "xyz"}
    one = Problem.of(chain(), [A, B], table, PLATFORM)
    two = Problem.of(chain(), [A, B], lambda node, device: table[node][device], PLATFORM)
    assert one.times_s == two.times_s
    assert one.transfer_time(100, "cpu:a", "cpu:a") == 0.0


@pytest.mark.parametrize("useless", [inf, nan, -1.0])
def test_a_task_without_any_device(useless: float) -> None:
    with pytest.raises(UnsupportedOperator, match="'x' runs on none of cpu:a, gpu:b"):
        Problem.of(chain(), [A, B], lambda n, d: useless if n == "x" else 1.0, PLATFORM)


def test_refusals() -> None:
    with pytest.raises(InfeasibleProblem, match="expected at least one device, found none"):
        Problem.of(chain(), [], lambda n, d: 1.0, PLATFORM)
    cyclic: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "x")])
    with pytest.raises(InfeasibleProblem, match="cycle"):
        Problem.of(cyclic, [A], lambda n, d: 1.0, PLATFORM)
    rules = Rules(convention="offload", backward=frozenset({"z"}))
    with pytest.raises(InfeasibleProblem, match="latency of a training graph is not defined: found 1 task"):
        Problem.of(chain(), [A], lambda n, d: 1.0, PLATFORM, rules=rules)
    with pytest.raises(UnknownDevice, match="gpu:c"):
        Problem.of(chain(), [A], lambda n, d: 1.0, PLATFORM).time("x", "gpu:c")


def test_a_tensor_read_twice_on_one_device_crosses_once() -> None:
    problem = Problem.of(chain(), [A, B], lambda n, d: 1.0, PLATFORM)
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "gpu:b"}, {"x"}, "cpu:a") == 1.0
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "cpu:a"}, {"x"}, "gpu:b") == 1.0
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "gpu:b"}, {"x", "y", "z"}, "gpu:b") == 0.0


@pytest.mark.parametrize("kind", [nx.MultiDiGraph, nx.Graph])
def test_task_graphs_that_are_no_digraph_are_named(kind: type[nx.Graph[str]]) -> None:
    graph = kind([("x", "y"), ("y", "z")])
    with pytest.raises(InfeasibleProblem, match=rf"networkx\.DiGraph, got a {kind.__name__}"):
        Problem.of(graph, [Device("cpu:a", "cpu", "a", "")], lambda task, device: 1.0)
