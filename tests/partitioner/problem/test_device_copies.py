"""Predicted transfers to and from devices with memory of their own contain copies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import FakeCosts, mlp
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem import device_copies as copies
from trisect.runtime.device import Device
from trisect.runtime.engines.base import EngineCapabilities
from trisect.runtime.engines.null import null_devices
from trisect.runtime.plans.plan import Plan


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A model of three layers, one to each of three devices of which some have memory of their own."""

    def plan(*own: str) -> Plan:
        monkeypatch.setattr(copies, "capabilities", lambda device: EngineCapabilities(own_memory=device.id in own))
        path = mlp(tmp_path / "mlp.onnx")
        devices: list[Device] = [*null_devices("gpu", 2), *null_devices("cpu", 1)]
        order = ("gpu:null", "cpu:null", "gpu:null#1")
        nodes = list(Graph.read(path, {"batch": 4}).nodes)
        force = {node: order[index * 3 // len(nodes)] for index, node in enumerate(nodes)}
        return small_models.split(
            path, devices, FakeCosts(), "heft", "latency", {"batch": 4}, 0, tmp_path / f"plan{len(own)}",
            constraints={"force": force},
        )  # fmt: skip

    return plan


def test_a_host_copies_nothing(planned):
    assert {event.kind for event in planned().predicted.events} == {"compute", "transfer"}


def test_copies_are_part_of_their_transfers(planned):
    plan = planned("gpu:null", "gpu:null#1")
    bare = planned()
    moved = {event.name: event for event in plan.predicted.events if event.kind == "transfer"}
    copied = [event for event in plan.predicted.events if event.kind == "convert"]
    # What the first makes comes down from it, what the second makes goes up to the third.
    assert [event.device for event in copied] == ["gpu:null", "gpu:null#1"]
    for event in copied:
        whole = moved[event.name]
        assert (event.start_s, event.end_s, event.size_bytes) == (whole.start_s, whole.end_s, 4 * 32 * 4)
    without = tuple(event for event in plan.predicted.events if event.kind != "convert")
    assert replace(plan.predicted, events=without) == bare.predicted


def test_from_one_such_device_to_another_there_are_two(planned):
    plan = planned("gpu:null", "gpu:null#1", "cpu:null")
    copied = [event for event in plan.predicted.events if event.kind == "convert"]
    assert [event.device for event in copied] == ["gpu:null", "cpu:null", "cpu:null", "gpu:null#1"]
    moved = [event for event in plan.predicted.events if event.kind == "transfer"]
    for whole, first, second in zip(moved, copied[::2], copied[1::2], strict=True):
        assert first.start_s == whole.start_s
        assert first.end_s == second.start_s
        assert second.end_s == pytest.approx(whole.end_s)
