"""Schedules worked out by hand, bounds against brute force, and a validator that finds planted faults."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from trisect.partitioner.segments.convex_cut import best_cut
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.plans.timeline import Event, Timeline
from trisect.scheduler.bounds.lower_bounds import best_bound
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.simulate import evaluate, simulate, single_parts
from trisect.scheduler.simulation.validate import validate_parts, validate_placement, validate_schedule

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


def test_branches_side_by_side() -> None:
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


@settings(max_examples=40, deadline=None)
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


def test_the_validator_finds_each_planted_fault_of_a_placement() -> None:
    problem = diamond()
    barred = Problem.of(problem.graph, [A, B], lambda n, d: inf if (n, d) == ("b", "cpu:a") else 1.0)

    def kinds(placement: dict[str, str]) -> list[str]:
        return [v.kind for v in validate_placement(barred, placement)]

    good = {**PLACED, "b": "gpu:b"}
    assert kinds(good) == []
    assert kinds({k: v for k, v in good.items() if k != "d"}) == ["unplaced"]
    assert kinds({**good, "d": "npu:z"}) == ["unknown"]
    assert kinds({**good, "e": "cpu:a"}) == ["unknown"]
    assert kinds(PLACED) == ["unsupported"]


def test_the_validator_finds_each_planted_fault_of_a_cut() -> None:
    problem = diamond()

    def kinds(*parts: Part) -> set[str]:
        return {v.kind for v in validate_parts(problem, PLACED, parts)}

    head, middle, tail = Part("cpu:a", ("a", "b")), Part("gpu:b", ("c",)), Part("cpu:a", ("d",))
    assert kinds(head, middle, tail) == set()
    assert kinds(head, middle) == {"uncovered"}
    assert kinds(head, middle, tail, tail) == {"uncovered"}
    assert kinds(head, Part("cpu:a", ("c",)), tail) == {"mixed"}
    assert kinds(Part("cpu:a", ("a", "b", "d")), middle) == {"cycle"}


def test_the_validator_finds_each_planted_fault_of_a_schedule() -> None:
    problem = diamond()
    parts = single_parts(problem, PLACED)
    events = list(simulate(problem, parts).events)

    def kinds(changed: list[Event]) -> set[str]:
        return {v.kind for v in validate_schedule(problem, parts, Timeline.of(changed, source="predicted"))}

    def with_run(name: str, **changes: float | str) -> list[Event]:
        return [replace(e, **changes) if e.name == name else e for e in events]  # type: ignore[arg-type]

    assert kinds(events) == set()
    assert kinds([e for e in events if e.name != "segment 2"]) == {"missing"}
    assert kinds(with_run("segment 2", device="cpu:a")) >= {"missing"}
    assert kinds(with_run("segment 2", end_s=4.9)) == {"duration"}
    assert kinds(with_run("segment 3", start_s=5.4, end_s=6.65)) == {"precedence"}
    assert kinds(with_run("segment 1", start_s=1.2, end_s=3.45)) == {"precedence", "overlap"}
    assert kinds([*events, *(e for e in events if e.name == "segment 3")]) >= {"overlap"}
