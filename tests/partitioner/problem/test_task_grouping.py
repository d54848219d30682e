"""Nodes stay together unless a constraint names one of them: then it moves that node and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.constraints import read_constraints
from trisect.partitioner.problem.selectors import named_node_devices
from trisect.partitioner.problem.task_grouping import merged_tasks, task_graph
from trisect.runtime.errors import InvalidInput

DEVICES = (small_models.CPU, small_models.GPU)
CPU, GPU = (frozenset({device.id}) for device in DEVICES)
KERNELS = [("MatMul_0", "Add_1", "Relu_2"), ("MatMul_3", "Add_4", "Relu_5")]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=2), {"batch": 1})


def groups(graph: Graph, constraints: dict[str, object]) -> list[tuple[str, ...]]:
    named = named_node_devices(graph, read_constraints(constraints), DEVICES)
    return [nodes for _, nodes in task_graph(graph, together=KERNELS, named=named).nodes(data="nodes")]


def test_kernels_are_whole_without_constraints(graph: Graph) -> None:
    assert groups(graph, {}) == KERNELS


@pytest.mark.parametrize("constraints", [{"forbid": {"op:Relu": "gpu"}}, {"force": {"op:Relu": "cpu"}}])
def test_named_nodes_leave_their_kernels(graph: Graph, constraints: dict[str, object]) -> None:
    assert groups(graph, constraints) == [("MatMul_0", "Add_1"), ("Relu_2",), ("MatMul_3", "Add_4"), ("Relu_5",)]


def test_neighbours_forced_apart_are_apart(graph: Graph) -> None:
    forced = groups(graph, {"force": {"MatMul_0": "cpu", "Add_1": "gpu", "Relu_2": "gpu"}})
    assert forced == [("MatMul_0",), ("Add_1", "Relu_2"), KERNELS[1]]


def test_a_whole_kernel_may_be_named(graph: Graph) -> None:
    assert groups(graph, {"force": {"re:(MatMul_0|Add_1|Relu_2)": "cpu"}}) == KERNELS


def test_a_node_between_two_others_of_its_kernel_takes_it_apart(graph: Graph) -> None:
    assert groups(graph, {"force": {"Add_1": "gpu"}}) == [("MatMul_0",), ("Add_1",), ("Relu_2",), KERNELS[1]]


def test_what_is_left_for_each_named_node(graph: Graph) -> None:
    constraints = read_constraints(
        {"force": {"MatMul_0": "cpu"}, "forbid": {"Add_1": "cpu"}, "colocate": [["MatMul_0", "Relu_5"]]}
    )
    assert named_node_devices(graph, constraints, DEVICES) == {"MatMul_0": CPU, "Add_1": GPU, "Relu_5": CPU}
    with pytest.raises(InvalidInput, match="matches nothing"):
        named_node_devices(graph, read_constraints({"force": {"Conv_9": "cpu"}}), DEVICES)


def test_refusals_follow_the_nodes_of_a_task(graph: Graph) -> None:
    tasks = task_graph(graph)
    joined, refused = merged_tasks(graph, tasks, {("Add_1", "gpu:one"): "no"}, KERNELS, {})
    assert refused == {("MatMul_0", "gpu:one"): "no"}
    named = {"Add_1": CPU}
    joined, refused = merged_tasks(graph, tasks, {("Add_1", "gpu:one"): "no"}, KERNELS, named)
    assert refused == {("Add_1", "gpu:one"): "no"}
    assert "Add_1" in joined
