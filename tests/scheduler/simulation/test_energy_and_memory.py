"""Energy and memory of a schedule, against sums computed independently."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.partitioner.segments.test_convex_cut import problems
from trisect.partitioner.segments.convex_cut import cut, divide
from trisect.runtime.device import Device
from trisect.runtime.errors import PowerUnknown
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.simulation.energy_and_memory import energy_j, may_overflow, peak_bytes, with_energy_and_memory
from trisect.scheduler.simulation.simulate import simulate

A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")


POWER_W = {"cpu:a": 10.0, "gpu:b": 100.0, "npu:c": 3.0}


def brute_peaks(problem: Problem, parts: list[Part], items: int) -> dict[str, int]:
    """Memory by looking at every moment of the timeline, and inside a part after every task."""
    events = simulate(problem, parts, items=items).events
    runs = {(e.item, int(e.name.split()[1])): e for e in events if e.kind == "compute"}
    part_of = {node: i for i, part in enumerate(parts) for node in part.nodes}
    tensors: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for source, target, data in problem.graph.edges(data=True):
        for name, size in data["tensors"].items():
            tensors.setdefault((source, name), (size, []))[1].append(target)
    weights = {
        d: sum(int(problem.rules.sizes_bytes[n]) for p in parts if p.device == d for n in p.nodes) for d in POWER_W
    }
    moments = sorted({t for e in events for t in (e.start_s, e.end_s)})
    middles = [(a + b) / 2 for a, b in pairwise(moments)]
    peaks = {d: weights[d] for d in problem.device_ids}
    for moment in middles:
        held = dict.fromkeys(problem.device_ids, 0)
        for (_, i), run in runs.items():
            if run.start_s < moment < run.end_s:
                steps = []
                for step in range(len(parts[i].nodes)):
                    done, coming = parts[i].nodes[: step + 1], parts[i].nodes[step:]
                    steps.append(
                        sum(
                            size
                            for (source, _), (size, readers) in tensors.items()
                            if source in done and any(r in coming or part_of[r] != i for r in readers)
                        )
                    )
                held[run.device] += max(steps)
        for (source, name), (size, readers) in tensors.items():
            for item in range(items):
                made = runs[item, part_of[source]]
                for device in problem.device_ids:
                    ends = [runs[item, part_of[r]].end_s for r in readers if parts[part_of[r]].device == device]
                    copies = [
                        e for e in events if (e.kind, e.item, e.name, e.device) == ("transfer", item, name, device)
                    ]
                    if device == made.device:
                        outside = [r for r in readers if part_of[r] != part_of[source]]
                        until = [runs[item, part_of[r]].end_s for r in outside if parts[part_of[r]].device == device]
                        until += [
                            e.end_s
                            for e in events
                            if e.kind == "transfer" and e.item == item and e.name == name and e.start_s == made.end_s
                        ]
                        if made.end_s < moment < max(until, default=0.0):
                            held[device] += size
                    elif ends:
                        begin = copies[0].start_s if copies else made.end_s
                        if begin < moment < max(ends):
                            held[device] += size
        for device in problem.device_ids:
            peaks[device] = max(peaks[device], weights[device] + held[device])
    return peaks


@settings(max_examples=60)
@given(problems(largest=8), st.integers(1, 2), st.booleans())
def test_memory_is_what_every_moment_needs(case: tuple[Problem, dict[str, str]], items: int, divided: bool) -> None:
    problem, placement = case
    problem = replace(problem, rules=Rules(sizes_bytes={n: 100.0 * i for i, n in enumerate(problem.graph)}))
    parts = cut(problem.graph, placement)
    parts = divide(problem.graph, parts) if divided else parts
    assert peak_bytes(problem, parts, simulate(problem, parts, items=items)) == brute_peaks(problem, parts, items)


@settings(max_examples=60)
@given(problems(largest=8))
def test_energy_is_power_times_busy_time(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    problem = replace(problem, platform=replace(problem.platform, power_w=POWER_W))
    parts = cut(problem.graph, placement)
    # A transfer of no time leaves no event, and needs no energy either.
    events = simulate(problem, parts).events
    assert energy_j(problem, parts) == pytest.approx(sum(POWER_W[e.device] * e.duration_s for e in events))


def test_unknown_values_are_not_guessed() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([("x", "y")])
    problem = Problem.of(graph, [A, B], lambda *_: 1.0, Platform(power_w={"cpu:a": 1.0}))
    assert energy_j(problem, [Part("cpu:a", ("x", "y"))]) == 2.0
    parts = [Part("cpu:a", ("x",)), Part("gpu:b", ("y",))]
    assert energy_j(problem, parts) is None
    assert with_energy_and_memory(problem, parts, simulate(problem, parts)).energy_j is None
    with pytest.raises(PowerUnknown, match=r"power of gpu:b is not measured.*\(cpu:a\)"):
        Problem.of(graph, [A, B], lambda *_: 1.0, Platform(power_w={"cpu:a": 1.0}), objective="energy")


def test_memory_is_checked_only_where_it_could_be_exceeded() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 50})
    rules = Rules(sizes_bytes={"x": 100.0, "y": 100.0})

    def problem(memory_bytes: int | None) -> Problem:
        return Problem.of(graph, [replace(A, memory_bytes=memory_bytes), B], lambda *_: 1.0, rules=rules)

    assert not may_overflow(problem(None))
    assert not may_overflow(problem(250))
    assert may_overflow(problem(249))
