"""The validator against planted faults."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import networkx as nx

from tests.scheduler.simulation.test_simulate import PLACED, A, B, diamond
from trisect.runtime.plans.timeline import Event, Timeline
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.simulation.simulate import simulate, single_parts
from trisect.scheduler.simulation.validate import validate_parts, validate_placement, validate_rules, validate_schedule


def test_the_validator_finds_planted_faults_of_a_placement() -> None:
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


def test_the_validator_finds_planted_faults_of_a_cut() -> None:
    problem = diamond()

    def kinds(*parts: Part) -> set[str]:
        return {v.kind for v in validate_parts(problem, PLACED, parts)}

    head, middle, tail = Part("cpu:a", ("a", "b")), Part("gpu:b", ("c",)), Part("cpu:a", ("d",))
    assert kinds(head, middle, tail) == set()
    assert kinds(head, middle) == {"uncovered"}
    assert kinds(head, middle, tail, tail) == {"uncovered"}
    assert kinds(head, Part("cpu:a", ("c",)), tail) == {"mixed"}
    assert kinds(Part("cpu:a", ("a", "b", "d")), middle) == {"cycle"}


def test_the_validator_finds_planted_faults_of_a_schedule() -> None:
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


def test_the_validator_finds_planted_faults_of_the_rules() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    nx.add_path(graph, "abc")
    rules = Rules(sizes_bytes=dict.fromkeys("abc", 40.0), colocated=(("a", "c"),), max_segments=3, contiguous=False)
    devices = [replace(A, memory_bytes=90), B]
    problem = Problem.of(graph, devices, lambda *_: 1.0, rules=rules)

    def kinds(changes: dict[str, str], peaks: dict[str, int] | None = None, **demands: object) -> list[str]:
        placement = {"a": "cpu:a", "b": "gpu:b", "c": "cpu:a", **changes}
        asked = replace(problem, rules=replace(rules, **demands))  # type: ignore[arg-type]
        parts = single_parts(asked, placement)
        return sorted(v.kind for v in validate_rules(asked, placement, parts, peaks))

    assert kinds({}) == []
    assert kinds({"c": "gpu:b"}) == ["apart"]
    assert kinds({}, max_segments=2) == ["segments"]
    assert kinds({}, contiguous=True) == ["contiguous"]
    assert kinds({"b": "cpu:a"}) == ["memory"]
    assert kinds({}, peaks={"cpu:a": 91, "gpu:b": 0}) == ["memory"]
    assert kinds({}, peaks={"cpu:a": 90, "gpu:b": 0}) == []
