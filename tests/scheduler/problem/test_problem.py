"""What a Problem refuses, and what it says of costs."""

from __future__ import annotations

from math import inf, nan

import networkx as nx
import pytest

from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice, UnsupportedOperator
from trisect.scheduler.problem.problem import Problem, crossing_time_s

A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")


def chain() -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 100})
    graph.add_edge("x", "z", tensors={"t": 100})
    return graph


def copies(size_bytes: int, src: str, dst: str) -> float:
    return size_bytes / 100


def test_times_from_functions_and_tables_agree() -> None:
    table = {n: {"cpu:a": 1.0, "gpu:b": 2.0} for n in "xyz"}
    one = Problem.of(chain(), [A, B], table, copies)
    two = Problem.of(chain(), [A, B], lambda node, device: table[node][device], copies)
    assert one.times_s == two.times_s
    assert one.transfer_time(100, "cpu:a", "cpu:a") == 0.0


def test_constraints_make_times_infinite() -> None:
    problem = Problem.of(chain(), [A, B], lambda n, d: 1.0, copies, forced={"x": "gpu:b"}, forbidden={"y": ["gpu:b"]})
    assert problem.allowed("x") == ["gpu:b"]
    assert problem.allowed("y") == ["cpu:a"]
    assert problem.time("x", "cpu:a") == inf


@pytest.mark.parametrize("useless", [inf, nan, -1.0])
def test_a_task_without_any_device(useless: float) -> None:
    with pytest.raises(UnsupportedOperator, match="'x' runs on none of cpu:a, gpu:b"):
        Problem.of(chain(), [A, B], lambda n, d: useless if n == "x" else 1.0, copies)


def test_refusals() -> None:
    with pytest.raises(InfeasibleProblem, match="leave node 'x' no device"):
        Problem.of(chain(), [A, B], lambda n, d: 1.0, copies, forced={"x": "gpu:b"}, forbidden={"x": ["gpu:b"]})
    with pytest.raises(InfeasibleProblem, match="'nobody'"):
        Problem.of(chain(), [A, B], lambda n, d: 1.0, copies, forced={"nobody": "gpu:b"})
    with pytest.raises(UnknownDevice, match="gpu:c"):
        Problem.of(chain(), [A, B], lambda n, d: 1.0, copies, forbidden={"x": ["gpu:c"]})
    with pytest.raises(InfeasibleProblem, match="no device"):
        Problem.of(chain(), [], lambda n, d: 1.0, copies)
    circle: nx.DiGraph[str] = nx.DiGraph([("x", "y"), ("y", "x")])
    with pytest.raises(InfeasibleProblem, match="cycle"):
        Problem.of(circle, [A], lambda n, d: 1.0, copies)
    with pytest.raises(UnknownDevice, match="gpu:c"):
        Problem.of(chain(), [A], lambda n, d: 1.0, copies).time("x", "gpu:c")


def test_a_tensor_read_twice_on_one_device_crosses_once() -> None:
    problem = Problem.of(chain(), [A, B], lambda n, d: 1.0, copies)
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "gpu:b"}, {"x"}, "cpu:a") == 1.0
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "cpu:a"}, {"x"}, "gpu:b") == 1.0
    assert crossing_time_s(problem, {"x": "cpu:a", "y": "gpu:b", "z": "gpu:b"}, {"x", "y", "z"}, "gpu:b") == 0.0
