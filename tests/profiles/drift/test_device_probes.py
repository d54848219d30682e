"""A device is probed once in some minutes, and its stored speed changes only when that of the machine clearly has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trisect.profiles.drift.device_probes import VALID_FOR, current_probes_s
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed

CPU = Device("cpu:a", "cpu", "a", "A CPU", engine_version="1")
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def probed(tmp_path: Path) -> Callable[..., float | None]:
    """Returns the speed of a device at some time after the first probe, where a new probe would take `time_s`."""

    def current(time_s: float | None, later: timedelta = timedelta(0), device: Device = CPU) -> float | None:
        def measure(asked: Device) -> float:
            assert asked is device
            if time_s is None:
                raise EngineFailed("no answer", reason="no answer")
            return time_s

        return current_probes_s([device], tmp_path / "probes.json", measure, NOW + later).get(device.id)

    return current


def test_within_some_minutes_a_device_is_not_probed_again(probed):
    assert probed(1.0) == 1.0
    assert probed(2.0, VALID_FOR) == 1.0
    assert probed(2.0, VALID_FOR + timedelta(seconds=1)) == 2.0
    assert probed(3.0, timedelta(days=-1)) == 3.0  # the clock was set back


def test_noise_does_not_change_the_speed_however_often_it_is_probed(probed):
    assert probed(1.0) == 1.0
    for turn, time_s in enumerate((1.09, 0.92, 1.05, 1.09), 1):
        assert probed(time_s, turn * 2 * VALID_FOR) == 1.0
    assert probed(1.12, timedelta(days=1)) == 1.12
    assert probed(1.03, timedelta(days=2)) == 1.12


def test_a_device_that_seems_slower_is_probed_again(tmp_path):
    times_s = iter([1.0, 1.5, 1.4, 1.05, 0.5, 1.5, 1.4, 1.3])

    def current(later: timedelta) -> float:
        return current_probes_s([CPU], tmp_path / "probes.json", lambda _: next(times_s), NOW + later)["cpu:a"]

    assert [current(timedelta(days=day)) for day in range(4)] == [1.0, 1.0, 0.5, 1.3]


def test_another_engine_version_is_another_device(probed):
    assert probed(1.0) == 1.0
    assert probed(1.05, device=replace(CPU, engine_version="2")) == 1.05


def test_a_device_that_cannot_be_probed_is_left_out_and_asked_again(probed, caplog):
    assert probed(None) is None
    assert "the speed of cpu:a is not known: no answer" in caplog.text
    assert probed(1.0) == 1.0


@pytest.mark.parametrize("content", [b"{", b'{"cpu:a": 1}', b'{"cpu:a": {"name": "A CPU"}}', b""])
def test_a_damaged_file_is_replaced(tmp_path, content):
    path = tmp_path / "probes.json"
    path.write_bytes(content)
    assert current_probes_s([CPU], path, lambda _: 2.0, NOW) == {"cpu:a": 2.0}
    assert current_probes_s([CPU], path, lambda _: 3.0, NOW) == {"cpu:a": 2.0}


def test_devices_that_do_not_compute_here_are_not_probed(tmp_path):
    others = replace(CPU, reality="simulated"), replace(CPU, id="other/cpu:a")
    assert current_probes_s(others, tmp_path / "probes.json", lambda _: 1.0, NOW) == {}
    assert not (tmp_path / "probes.json").exists()
