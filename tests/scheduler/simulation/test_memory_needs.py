"""Peaks, bounds and limits of memory use the measured needs of the devices."""

from __future__ import annotations

import itertools
from dataclasses import replace

import networkx as nx
import pytest

from trisect.partitioner.segments.convex_cut import best_cut
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import certificate, evaluate_proposal
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.memory_need import MemoryNeed
from trisect.runtime.device import Device
from trisect.scheduler.bounds.lower_bounds import best_bound
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.simulation.energy_and_memory import peak_bytes, with_energy_and_memory
from trisect.scheduler.simulation.simulate import simulate
from trisect.scheduler.simulation.validate import validate_rules


@pytest.fixture
def problem() -> Problem:
    """A diamond; cpu:a keeps half of the weights (it maps them), gpu:b twice as much as there is."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for source, target in (("w", "x"), ("w", "y"), ("x", "z"), ("y", "z")):
        graph.add_edge(source, target, tensors={f"{source}.out": 64})
    devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    memory = {"cpu:a": MemoryNeed(30.0, 0.5, 1.5), "gpu:b": MemoryNeed(10.0, 2.0, 3.0)}
    return Problem.of(
        graph, devices, lambda task, device: 1.0, Platform(default_link=LinkCost(0.1), memory=memory),
        objective="memory", rules=Rules(sizes_bytes={"w": 4000, "x": 1000, "y": 2500, "z": 800}),
    )  # fmt: skip


def test_a_peak_is_what_was_measured_for_each_byte(problem):
    parts = [Part("cpu:a", ("w", "x", "y")), Part("gpu:b", ("z",))]
    schedule = simulate(problem, parts)
    # Beside its weights cpu:a holds, at the worst, what w, x and y made; gpu:b what x and y made.
    assert peak_bytes(problem, parts, schedule) == {
        "cpu:a": round(30 + 0.5 * 7500 + 1.5 * 3 * 64),
        "gpu:b": round(10 + 2.0 * 800 + 3.0 * 2 * 64),
    }
    messages = with_energy_and_memory(
        replace(problem, platform=replace(problem.platform, memory={"gpu:b": MemoryNeed()})), parts, schedule
    )
    assert messages.peak_basis == {"cpu:a": "weights and tensors", "gpu:b": "measured factors"}


@pytest.mark.parametrize("strategy", ["exact", "auto"])
def test_no_placement_is_below_the_bound_and_a_strategy_that_proves_is_at_the_best(problem, strategy):
    values = []
    for where in itertools.product(problem.device_ids, repeat=4):
        _, value, _ = best_cut(problem, dict(zip(problem.graph, where, strict=True)), None)
        values.append(value)
    assert best_bound(problem).value <= min(values)
    result = propose(problem, strategy, time_limit_s=10, seed=0)
    assert certificate(problem, result).value <= min(values)
    assert evaluate_proposal(problem, result).value <= 1.1 * min(values)


def test_what_an_engine_doubles_may_not_fit(problem):
    small = replace(problem.devices[1], memory_bytes=6000)
    tight = replace(problem, devices=(problem.devices[0], small))
    placement = dict.fromkeys(problem.graph, "cpu:a") | {"w": "gpu:b"}
    parts = [Part("gpu:b", ("w",)), Part("cpu:a", ("x", "y", "z"))]
    assert [v.kind for v in validate_rules(tight, placement, parts)] == ["memory"]
    assert validate_rules(replace(tight, platform=replace(tight.platform, memory={})), placement, parts) == []
