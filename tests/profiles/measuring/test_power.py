"""Power is the difference of a counter over time; without a counter it is not measured."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trisect.profiles.measuring import power
from trisect.runtime.device import Device
from trisect.runtime.engines.base import EngineCapabilities

CPU = Device("cpu:x", "cpu", "x", "a processor")
GPU = Device("gpu:cuda#1", "gpu", "cuda", "a graphics card")


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances by a quarter of a second per reading."""
    ticks = itertools.count(0.0, 0.25)
    monkeypatch.setattr(power, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))


@pytest.fixture
def rapl(monkeypatch, tmp_path: Path):
    """Two packages, and a part of one that must not be counted twice."""
    zones = {name: tmp_path / name / "energy_uj" for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0")}
    for zone in zones.values():
        zone.parent.mkdir()
        zone.write_text("1000000\n")
    monkeypatch.setattr(power, "_RAPL", tmp_path)
    return zones


def test_a_processor_is_the_sum_of_its_packages(clock, rapl):
    def work():
        for zone, joules in (("intel-rapl:0", 3), ("intel-rapl:1", 2), ("intel-rapl:0:0", 100)):
            rapl[zone].write_text(f"{int(rapl[zone].read_text()) + joules * 1_000_000}\n")

    assert power.can_measure_power(CPU)
    # Looks at 0, then before each call, then at the end: three calls between 0 and 1.25 s.
    assert power.power_w(CPU, work, duration_s=1.0) == pytest.approx(3 * 5 / 1.25)


def test_a_wrapped_counter_gives_no_power(clock, rapl):
    assert power.power_w(CPU, lambda: rapl["intel-rapl:0"].write_text("5\n")) is None


@pytest.mark.parametrize("spoil", [lambda zone: zone.write_text("secret"), lambda zone: zone.unlink()])
def test_an_unreadable_counter_gives_no_power(rapl, spoil):
    spoil(rapl["intel-rapl:0"])
    assert not power.can_measure_power(CPU)
    assert power.power_w(CPU, lambda: None) is None


def test_a_machine_without_counters_gives_no_power(monkeypatch, tmp_path):
    monkeypatch.setattr(power, "_RAPL", tmp_path)
    assert not power.can_measure_power(CPU)
    assert not power.can_measure_power(Device("npu:x", "npu", "x", ""))


def test_simulated_devices_have_no_power(rapl):
    assert not power.can_measure_power(Device("cpu:x", "cpu", "x", "", reality="simulated"))


def test_an_nvidia_gpu_is_read_by_its_index(clock, monkeypatch):
    monkeypatch.setattr(power, "capabilities", lambda device: EngineCapabilities(vendor="nvidia"))
    energy_mj = itertools.count(1000, 2500)
    asked = []
    monkeypatch.setitem(
        sys.modules,
        "pynvml",
        SimpleNamespace(
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByIndex=asked.append,
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(energy_mj),
        ),
    )
    assert power.power_w(GPU, lambda: None, duration_s=1.0) == pytest.approx(2.5 / 1.25)
    assert asked == [1]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not power.can_measure_power(GPU)
