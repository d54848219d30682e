"""Schedules computed by hand."""

from __future__ import annotations

import networkx as nx
import pytest

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.simulate import evaluate, simulate, single_parts

A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")


def diamond(objective: str = "latency") -> Problem:
    """a -> b, c -> d; b takes 2 s, c 3 s, the ends 1 s; a copy takes 0.5 s and a call 0.25 s."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for source, target in (("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")):
        graph.add_edge(source, target, tensors={f"t{source}": 8})
    times = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 1.0}
    return Problem.of(
        graph,
        [A, B],
        lambda node, device: times[node],
        Platform(default_link=LinkCost(0.5), call_overhead_s={"cpu:a": 0.25, "gpu:b": 0.25}),
        objective=objective,  # type: ignore[arg-type]
    )


PLACED = {"a": "cpu:a", "b": "cpu:a", "c": "gpu:b", "d": "cpu:a"}


def test_branches_run_in_parallel() -> None:
    problem = diamond()
    schedule = simulate(problem, single_parts(problem, PLACED))
    runs = {e.name: (e.start_s, e.end_s) for e in schedule.events if e.kind == "compute"}
    # a 0-1.25; b there 1.25-3.5; c after its copy 1.75-5; its result back 5.5; d 5.5-6.75
    assert runs == {
        "segment 0": (0, 1.25),
        "segment 1": (1.25, 3.5),
        "segment 2": (1.75, 5.0),
        "segment 3": (5.5, 6.75),
    }
    copies = [(e.name, e.device, e.start_s, e.size_bytes) for e in schedule.events if e.kind == "transfer"]
    assert copies == [("ta", "gpu:b", 1.25, 8), ("tc", "cpu:a", 5.0, 8)]
    assert schedule.latency_s == 6.75
    assert schedule.source == "predicted"


def test_one_part_pays_one_call() -> None:
    problem = diamond()
    assert simulate(problem, [Part("cpu:a", tuple("abcd"))]).latency_s == 7.25


def test_throughput_is_the_load_of_the_busiest_device() -> None:
    problem = diamond("throughput")
    period_s, schedule = evaluate(problem, single_parts(problem, PLACED))
    assert period_s == 4.75
    assert schedule.throughput_hz == 1 / 4.75
    many = simulate(problem, single_parts(problem, PLACED), items=40)
    ends = sorted(e.end_s for e in many.events if e.name == "segment 3")
    assert (ends[-1] - ends[0]) / 39 == pytest.approx(4.75, rel=0.1)


def test_parts_in_a_cycle_are_refused() -> None:
    with pytest.raises(InfeasibleProblem, match="wait for each other in a cycle"):
        simulate(diamond(), [Part("cpu:a", ("a", "d")), Part("gpu:b", ("b", "c"))])
