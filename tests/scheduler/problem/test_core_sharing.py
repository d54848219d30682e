"""Devices on the same cores: the fluid must keep the work, and a schedule must be slowed by what it says."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.scheduler.bounds.lower_bounds import best_bound
from trisect.scheduler.problem.core_sharing import CoreSharing
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.simulate import evaluate
from trisect.scheduler.simulation.validate import validate_schedule

LOADS = st.floats(1e-6, 10.0)


def pair(first: float, second: float, *, apart: bool = False) -> CoreSharing:
    return CoreSharing({("a", "b"): first, ("b", "a"): second}, apart)


@given(LOADS, LOADS)
def test_halved_speed_conserves_the_cores(first, second):
    """Two that halve each other's speed take as long as one after the other."""
    busy = pair(2.0, 2.0).busy_s({"a": first, "b": second})
    assert max(busy.values()) == pytest.approx(first + second)


@given(LOADS, LOADS, st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_it_agrees_with_playing_it_in_small_steps(first, second, slow_first, slow_second):
    """Against time cut into small steps, in which each does what the other's presence lets it."""
    busy = pair(slow_first, slow_second).busy_s({"a": first, "b": second})
    step_s = (first + second) / 2000
    left, now_s, ends = {"a": first, "b": second}, 0.0, {}
    while left:
        at_work = set(left)
        now_s += step_s
        for device, slowdown in (("a", slow_first), ("b", slow_second)):
            if device in at_work:
                left[device] -= step_s / (slowdown if len(at_work) > 1 else 1.0)
                if left[device] <= 0:
                    ends[device] = now_s
                    del left[device]
    for device, end_s in ends.items():
        assert busy[device] == pytest.approx(end_s, abs=3 * step_s)


@given(LOADS, LOADS, st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_no_device_is_faster_than_alone_or_slower_than_always_shared(first, second, slow_first, slow_second):
    loads = {"a": first, "b": second}
    shared, apart = (pair(slow_first, slow_second, apart=apart).busy_s(loads) for apart in (False, True))
    for device in loads:
        assert loads[device] * (1 - 1e-9) <= shared[device] <= apart[device] * (1 + 1e-9)


def test_three_are_slowed_by_two_each():
    names = "abc"
    slowdowns = {(x, y): 2.0 for x in names for y in names if x != y}
    assert CoreSharing(slowdowns).busy_s(dict.fromkeys(names, 1.0)) == pytest.approx(dict.fromkeys(names, 3.0))


@pytest.fixture
def problem() -> Problem:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 100})
    devices = [Device("cpu:a", "cpu", "a", ""), Device("cpu:b", "cpu", "b", ""), Device("gpu:c", "gpu", "c", "")]
    sharing = CoreSharing({("cpu:a", "cpu:b"): 1.9, ("cpu:b", "cpu:a"): 1.7})
    platform = Platform(default_link=LinkCost(0.1), core_sharing=sharing)
    return Problem.of(graph, devices, lambda task, device: 1.0, platform, objective="throughput")


@pytest.mark.parametrize(
    ("where", "period_s"),
    [
        (("cpu:a", "cpu:a"), 2.0),  # no contention
        (("cpu:a", "gpu:c"), 1.0),  # of other cores
        # cpu:b is done after 1.7 s, in which cpu:a did 1.7 / 1.9 of its second.
        (("cpu:a", "cpu:b"), 1.7 + (1 - 1.7 / 1.9)),
    ],
)
def test_a_stream_is_as_slow_as_its_busiest_device(problem, where, period_s):
    parts = [Part(where[0], ("x",)), Part(where[1], ("y",))]
    value, schedule = evaluate(problem, parts)
    assert value == pytest.approx(period_s)
    assert schedule.throughput_hz == pytest.approx(1 / period_s)
    assert validate_schedule(problem, parts, schedule) == []
    assert best_bound(problem).value <= value
    first = [event for event in schedule.events if event.kind == "compute" and event.item == 0]
    busy_s = [sum(event.duration_s for event in first if event.device == device) for device in set(where)]
    assert max(busy_s) == pytest.approx(period_s)


def test_two_engines_that_slow_each_other_down_gain_nothing(problem):
    """What a model of separate devices promised: twice the throughput of one."""
    one = evaluate(problem, [Part("cpu:a", ("x", "y"))])[0]
    two = evaluate(problem, [Part("cpu:a", ("x",)), Part("cpu:b", ("y",))])[0]
    blind = evaluate(
        replace(problem, platform=replace(problem.platform, core_sharing=CoreSharing())),
        [Part("cpu:a", ("x",)), Part("cpu:b", ("y",))],
    )[0]
    assert blind == pytest.approx(one / 2)
    assert two > 0.85 * one


def test_devices_on_the_same_cores_take_turns_for_one_input_only(problem):
    groups = CoreSharing(groups={"cpu:a": "cores", "cpu:b": "cores"})
    branches = nx.DiGraph()
    branches.add_nodes_from("xy")
    parts = [Part("cpu:a", ("x",)), Part("cpu:b", ("y",))]
    separate = replace(problem, graph=branches, objective="latency", platform=Platform())
    shared = replace(separate, platform=Platform(core_sharing=groups))
    assert (evaluate(separate, parts)[0], evaluate(shared, parts)[0]) == (1.0, 2.0)
    assert evaluate(shared.with_objective("throughput"), parts)[0] == 1.0
