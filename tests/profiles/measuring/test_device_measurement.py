"""Measurements reuse earlier ones, respect the budget, and survive an interruption."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import pytest

from trisect.profiles.costmodel.memory_need import MemoryNeed
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.drift import device_changes as changes
from trisect.profiles.measuring import device_measurement as measuring
from trisect.profiles.measuring import wakeup_measurement as wakeup
from trisect.profiles.measuring.operator_cases import standard_cases
from trisect.profiles.stored.profile_data import Contention, Link, MemoryPoint, WakeupPoint
from trisect.runtime.engines import discover
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import DeviceLost, EngineFailed

ORT, OPENVINO = (next(d for d in discover() if d.id == name) for name in ("cpu:ort", "cpu:openvino"))
CASES = standard_cases()
SMALL = [case for case in CASES if case.size_bytes * case.repeats < 3e6]


@pytest.fixture
def quick(monkeypatch):
    """Only some small cases, without measuring memory, bandwidth and contention."""
    chosen = [case for case in SMALL if case.name in ("matmul:64x256x256", "norm:layer:8x256", "elementwise:add:4096")]
    assert len(chosen) == 3
    monkeypatch.setattr(measuring, "standard_cases", lambda: chosen)
    monkeypatch.setattr(measuring, "read_bandwidth_bytes_per_s", lambda: 1e10)
    monkeypatch.setattr(measuring, "peak_flops", lambda device, options: 1e11)
    monkeypatch.setattr(measuring, "_CLASSES", 1)
    monkeypatch.setattr(measuring, "measure_contention", contention_of)
    monkeypatch.setattr(measuring, "measure_memory", lambda *_: MEMORY)
    monkeypatch.setattr(measuring, "probe_time_s", lambda *_: 1e-4)
    monkeypatch.setattr(changes, "probe_time_s", lambda *_: 1e-4)
    monkeypatch.setattr(wakeup, "measure_wakeups", lambda _, beside, __: (WakeupPoint(beside.id, 1e-3, 3e-4, 1e-4),))
    return chosen


MEMORY = (MemoryPoint("tiny", 0, 0, 10), MemoryPoint("weights", 1000, 0, 2010))


def contention_of(pair, options, executor):
    """Synthetic contention, without measuring: each device takes three times as long."""
    rows = itertools.permutations([device.id for device in pair])
    return tuple(Contention(a, b, executor, OpClass.MATMUL, 1.0, 3.0) for a, b in rows)


def test_a_measured_profile_has_all_costs_for_planning(quick):
    steps = []
    profile = measuring.measure([ORT, OPENVINO], progress=lambda *step: steps.append(step))
    assert list(profile.devices) == ["cpu:ort", "cpu:openvino"]
    assert profile.provenance.source == "measured"
    assert profile.provenance.engines["ort"] == ORT.engine_version
    assert {(link.source, link.target) for link in profile.links} == set(itertools.permutations(profile.devices, 2))
    assert [done for done, _, _ in steps] == list(range(13))
    assert steps[-1][:2] == (12, 12)
    assert {(row.device, row.beside, row.executor) for row in profile.contention} == {
        (*pair, executor) for pair in itertools.permutations(profile.devices) for executor in ("threads", "processes")
    }
    costs = ProfileCosts(profile)
    for name in profile.devices:
        small, large = (
            costs.node_time_s(OpFeatures("MatMul", OpClass.MATMUL, f, 10**5, 10**5, 0, "float32"), name)
            for f in (1e6, 1e12)
        )
        assert 0 < small < large
        assert costs.call_overhead_s(name) > 0
    assert costs.link("cpu:ort", "cpu:openvino").time_s(10**6) > 0
    assert costs.slowdowns() == pytest.approx(dict.fromkeys(itertools.permutations(profile.devices), 3.0))
    wakeups = costs.wakeup_costs()
    assert wakeups is not None
    assert [wakeups.wakeup_s(name, 1e-3) for name in profile.devices] == pytest.approx([2e-4, 2e-4])
    assert costs.memory_needs() == dict.fromkeys(profile.devices, MemoryNeed(10.0, 2.0, 1.0))


def test_earlier_measurements_are_reused(quick, monkeypatch):
    first = measuring.measure([ORT])
    ran = []
    bound = measuring._time_case
    monkeypatch.setattr(measuring, "_time_case", lambda case, *rest: (ran.append(case.name), bound(case, *rest))[1])
    again = measuring.measure([ORT], known=first)
    assert again.devices == first.devices
    assert ran == ["tiny:1"]
    more = measuring.measure([OPENVINO], known=first)
    assert set(more.devices) == {"cpu:ort", "cpu:openvino"}
    assert more.devices["cpu:ort"] == first.devices["cpu:ort"]
    updated = measuring.measure([replace(ORT, engine_version="2")], known=first)
    assert updated.devices["cpu:ort"].engine_version == "2"
    ran.clear()
    measuring.measure([ORT], known=first, precision="fast")
    assert "matmul:64x256x256" in ran


def test_a_small_budget_measures_small_cases(quick, monkeypatch):
    monkeypatch.setattr(measuring, "small_cases", lambda: quick[:1])
    few, more = (measuring.measure([ORT], budget_s=budget_s).devices["cpu:ort"] for budget_s in (9.0, 10.0))
    assert [point.case for point in few.points] == [quick[0].name]
    assert len(more.points) == len(quick)


def test_cases_beyond_the_budget_are_measured_next_time(quick):
    first = measuring.measure([ORT], budget_s=0.0)
    assert first.devices["cpu:ort"].points == ()
    assert first.devices["cpu:ort"].call_overhead_s > 0
    assert first.devices["cpu:ort"].load_s > 0
    assert first.devices["cpu:ort"].node_load_s is not None
    second = measuring.measure([ORT], known=first)
    assert [point.case for point in second.devices["cpu:ort"].points] == [case.name for case in quick]
    assert second.devices["cpu:ort"].call_overhead_s == first.devices["cpu:ort"].call_overhead_s


def test_a_refused_operator_is_recorded(quick, monkeypatch):
    bound = measuring._time_case

    def refusing(case, device, options):
        if case.op_class is OpClass.NORM:
            raise EngineFailed("no kernel for LayerNormalization")
        return bound(case, device, options)

    monkeypatch.setattr(measuring, "_time_case", refusing)
    profile = measuring.measure([ORT])
    assert profile.devices["cpu:ort"].refused == {"norm:layer:8x256": "no kernel for LayerNormalization"}
    norm = OpFeatures("Softmax", OpClass.NORM, 1e5, 10**5, 10**5, 0, "float32")
    assert ProfileCosts(profile).node_time_s(norm, "cpu:ort") == float("inf")


def test_what_was_measured_of_a_device_that_vanishes_is_stored_and_none_of_its_operators_counts_as_refused(
    quick, monkeypatch
):
    bound, stored = measuring._time_case, []

    def gone(*_: object) -> None:
        raise EngineFailed("cpu:openvino cannot load it: no device", reason="no device")

    def vanishing(case, device, options):
        if device is OPENVINO and case.name.startswith("norm"):
            monkeypatch.setattr(changes, "load", gone)
            gone()
        return bound(case, device, options)

    monkeypatch.setattr(measuring, "_time_case", vanishing)
    with pytest.raises(DeviceLost, match="cpu:openvino stopped working while it was measured: no device; ") as failure:
        measuring.measure([ORT, OPENVINO], on_interrupt=stored.append)
    assert failure.value.device == "cpu:openvino"
    (partial,) = stored
    assert partial.devices["cpu:openvino"].refused == {}
    assert partial.devices["cpu:openvino"].points
    assert len(partial.devices["cpu:ort"].points) > len(partial.devices["cpu:openvino"].points)


def test_a_device_that_has_become_much_slower_is_measured_again(quick, monkeypatch):
    first = measuring.measure([ORT])
    assert (first.devices["cpu:ort"].probe_s, first.devices["cpu:ort"].slowed) == (1e-4, 1.0)
    monkeypatch.setattr(measuring, "probe_time_s", lambda *_: 1.4e-4)
    assert measuring.measure([ORT], known=first).devices == first.devices
    monkeypatch.setattr(measuring, "probe_time_s", lambda *_: 1.6e-4)
    again = measuring.measure([ORT], known=first).devices["cpu:ort"]
    assert again.probe_s == 1.6e-4
    assert again.slowed == 0.625  # the probe at the end took 1e-4 s
    assert measuring.measure([ORT], known=replace(first, devices={"cpu:ort": again})).devices["cpu:ort"] != again
    old = msgspec.structs.replace(first.devices["cpu:ort"], date="2020-01-01T00:00:00+00:00")
    renewed = measuring.measure([ORT], known=replace(first, devices={"cpu:ort": old})).devices["cpu:ort"]
    assert renewed.date > old.date


def test_an_interrupted_measurement_can_be_resumed(quick, monkeypatch):
    bound = measuring._time_case
    stored = []

    def interrupted(case, device, options):
        if case.name.startswith("norm"):
            raise KeyboardInterrupt
        return bound(case, device, options)

    monkeypatch.setattr(measuring, "_time_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measuring.measure([ORT, OPENVINO], on_interrupt=stored.append)
    (partial,) = stored
    names = [case.name for case in quick]
    cut = names.index("norm:layer:8x256")
    assert [point.case for point in partial.devices["cpu:ort"].points] == names[:cut]
    assert len(partial.links) == 2
    monkeypatch.setattr(measuring, "_time_case", bound)
    whole = measuring.measure([ORT, OPENVINO], known=partial)
    assert whole.devices["cpu:ort"].points[:cut] == partial.devices["cpu:ort"].points
    assert [point.case for point in whole.devices["cpu:ort"].points] == names
    assert whole.links == partial.links
    assert whole.contention == partial.contention


def test_an_interruption_before_the_first_measurement_saves_nothing(quick, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "_measure_overheads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measuring.measure([ORT], on_interrupt=lambda profile: pytest.fail("nothing was measured"))


def test_the_cases_of_a_model_come_first(quick):
    first = replace(quick[0], name="matmul:mine")
    profile = measuring.measure([ORT], model_cases=[first])
    assert profile.devices["cpu:ort"].points[0].case == "matmul:mine"
    assert len(profile.devices["cpu:ort"].points) == len(quick) + 1


def test_cases_that_would_take_minutes_are_left_out(quick):
    simulated = replace(ORT, reality="simulated")
    slow = msgspec.structs.replace(measuring.measure([ORT], budget_s=0.0).devices["cpu:ort"], peak_flops=1e6)
    by_name = {case.name: case for case in CASES}
    small, large = by_name["matmul:64x256x256"], by_name["matvec:1x4096x4096"]
    quick_profile = msgspec.structs.replace(slow, peak_flops=1e12)
    assert measuring._is_affordable(large, ORT, quick_profile)
    assert not measuring._is_affordable(large, simulated, quick_profile)
    assert measuring._is_affordable(small, simulated, quick_profile)
    assert not measuring._is_affordable(small, ORT, slow)


@pytest.mark.parametrize(
    ("reality", "budget_s", "largest"),
    [("hardware", 5.0, 16 << 20), ("hardware", 10.0, 256 << 20), ("simulated", 60.0, 1 << 20)],
)
def test_transfer_sizes_depend_on_budget_and_device(monkeypatch, reality, budget_s, largest):
    asked = []

    def link(source, target, options, sizes):
        asked.append(sizes)
        return Link(source.id, target.id, 1e-6, None)

    monkeypatch.setattr(measuring, "measure_link", link)
    known = {}
    measuring._measure_links([ORT, replace(OPENVINO, reality=reality)], known, LoadOptions(), budget_s)
    assert len(known) == 2
    assert {sizes[-1] for sizes in asked} == {largest}
    assert all(sizes[0] == 1024 for sizes in asked)
