"""Cutting random placed graphs: convex, complete, and no more parts than the best cut has."""

from __future__ import annotations

from itertools import pairwise, permutations

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from trisect.partitioner.segments.convex_cut import best_cut, cut, divide
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.simulate import simulate
from trisect.scheduler.simulation.validate import validate_parts, validate_schedule

DEVICES = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", ""), Device("npu:c", "npu", "c", "")]


@st.composite
def problems(draw: st.DrawFn, largest: int = 12, devices: int = 3) -> tuple[Problem, dict[str, str]]:
    """A random task graph with random costs, placed at random."""
    count = draw(st.integers(1, largest))
    names = [f"n{i}" for i in range(count)]
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    sizes = [draw(st.integers(0, 1000)) for _ in names]
    for j in range(count):
        for i in draw(st.sets(st.integers(0, max(0, j - 1)), max_size=3)) if j else ():
            graph.add_edge(names[i], names[j], tensors={f"t{i}": sizes[i]})
    times = {n: {d.id: float(draw(st.integers(1, 9))) for d in DEVICES[:devices]} for n in names}
    problem = Problem.of(
        graph,
        DEVICES[:devices],
        times,
        Platform(default_link=LinkCost(0.5, 1000), call_overhead_s={d.id: 0.25 for d in DEVICES[:devices]}),
    )
    return problem, {n: draw(st.sampled_from([d.id for d in DEVICES[:devices]])) for n in names}


@settings(max_examples=150)
@given(problems())
def test_parts_are_valid_and_so_is_their_schedule(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    for parts in (cut(problem.graph, placement), divide(problem.graph, cut(problem.graph, placement))):
        assert validate_parts(problem, placement, parts) == []
        assert validate_schedule(problem, parts, simulate(problem, parts)) == []
        assert validate_schedule(problem, parts, simulate(problem, parts, items=3)) == []
    parts, value, schedule = best_cut(problem, placement)
    assert value == schedule.latency_s


@settings(max_examples=60)
@given(problems(largest=6, devices=2))
def test_two_devices_get_the_fewest_parts_possible(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    fewest = len(problem.graph)
    for order in permutations(problem.graph):
        position = {n: i for i, n in enumerate(order)}
        if all(position[a] < position[b] for a, b in problem.graph.edges):
            changes = sum(placement[a] != placement[b] for a, b in pairwise(order))
            fewest = min(fewest, 1 + changes)
    assert len(cut(problem.graph, placement)) == fewest


def test_independent_branches_run_apart_when_that_is_quicker() -> None:
    # Head and long branch on one device: as one part, the other device would wait for the long branch for nothing.
    graph: nx.DiGraph[str] = nx.DiGraph([("head", "long"), ("head", "other"), ("long", "tail"), ("other", "tail")])
    graph.add_edge("head", "other", tensors={"t": 1})
    placement = {"head": "cpu:a", "long": "cpu:a", "other": "gpu:b", "tail": "cpu:a"}
    times = {"head": 1.0, "long": 5.0, "other": 5.0, "tail": 1.0}
    problem = Problem.of(graph, DEVICES[:2], lambda n, d: times[n])
    fewest = cut(graph, placement)
    assert [part.nodes for part in fewest] == [("head", "long"), ("other",), ("tail",)]
    assert simulate(problem, fewest).latency_s == 12.0
    parts, value, _ = best_cut(problem, placement)
    assert value == 7.0
    assert validate_parts(problem, placement, parts) == []


def test_an_empty_graph_has_no_parts() -> None:
    assert cut(nx.DiGraph(), {}) == []
