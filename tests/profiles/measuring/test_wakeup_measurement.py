"""Wake-up costs are measured once per pair of devices, stored, and used for planning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.measuring import wakeup_measurement as wakeup
from trisect.profiles.measuring.operator_cases import OperatorCase
from trisect.profiles.stored.profile_data import DeviceProfile, Profile, Provenance, WakeupPoint
from trisect.profiles.stored.profile_store import load, save
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed, InvalidProfile

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")


def profiles() -> dict[str, DeviceProfile]:
    return {d.id: DeviceProfile(d.id, d.name, d.engine_version, 1e-4, 1e-6) for d in (ORT, OPENVINO)}


def test_a_call_is_timed_after_increasing_work(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, int]] = []
    load_call = wakeup._load_call

    def loading(case: OperatorCase, device: Device, *more: Any) -> Callable[[], object]:
        loaded.append((device.id, case.size_bytes))
        return load_call(case, device, *more)

    monkeypatch.setattr(wakeup, "_load_call", loading)
    wakeups = wakeup.measure_wakeups(OPENVINO, ORT, LoadOptions())
    (minimal, _), *others = loaded
    assert (minimal, {device for device, _ in others}) == ("cpu:openvino", {"cpu:ort"})
    sizes = [size for _, size in others]
    assert len(wakeups) == len(sizes) == 3
    assert all(larger > 3 * smaller for smaller, larger in pairwise(sizes))
    assert {row.beside for row in wakeups} == {"cpu:ort"}
    assert all(row.idle_s > 0 and row.cold_s > 0 and row.warm_s > 0 for row in wakeups)


def test_cold_and_warm_calls_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call after another device takes 5 s, the next 2 s, all others 1 s."""
    now_s, taken_s = [0.0], [3.0, 5.0, 2.0, 1.0, 1.0]
    ran: list[str] = []

    def calling(case: OperatorCase, device: Device, options: LoadOptions, stack: ExitStack) -> Callable[[], object]:
        def call() -> None:
            now_s[0] += taken_s[len(ran) % 5]
            ran.append(device.id)

        return call

    monkeypatch.setattr(wakeup, "_load_call", calling)
    monkeypatch.setattr(wakeup.time, "perf_counter", lambda: now_s[0])
    wakeups = wakeup.measure_wakeups(OPENVINO, ORT, LoadOptions())
    assert set(wakeups) == {WakeupPoint("cpu:ort", 3.0, 5.0, 1.0)}
    assert wakeups[0].extra_s == 4.0
    assert ran[:5] == ["cpu:ort", *["cpu:openvino"] * 4]


def test_earlier_points_are_kept_and_failures_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def measured(device: Device, beside: Device, options: LoadOptions) -> tuple[WakeupPoint, ...]:
        asked.append((device.id, beside.id))
        if device is ORT:
            raise EngineFailed("no such operator")
        return (WakeupPoint(beside.id, 1e-3, 3e-4, 1e-4),)

    monkeypatch.setattr(wakeup, "measure_wakeups", measured)
    known = profiles()
    wakeup.add_wakeups([ORT, OPENVINO], known, LoadOptions())
    assert asked == [("cpu:ort", "cpu:openvino"), ("cpu:openvino", "cpu:ort")]
    assert known["cpu:ort"].wakeups == ()
    wakeup.add_wakeups([OPENVINO, ORT], known, LoadOptions())
    assert asked[2:] == [("cpu:ort", "cpu:openvino")]


def test_wake_up_costs_are_stored_and_used(tmp_path: Path) -> None:
    known = profiles()
    profile = Profile(Provenance("measured", "", "", "", "", {}, None), "float32", known)
    assert ProfileCosts(profile).wakeup_costs() is None
    rows = (WakeupPoint("cpu:ort", 4e-3, 5e-4, 1e-4), WakeupPoint("cpu:ort", 1e-3, 2e-4, 1e-4))
    known["cpu:openvino"] = msgspec.structs.replace(known["cpu:openvino"], wakeups=rows)
    save(profile, tmp_path / "p.json")
    wakeups = ProfileCosts(load(tmp_path / "p.json")).wakeup_costs()
    assert wakeups is not None
    assert wakeups.wakeup_s("cpu:openvino", 1e-3) == pytest.approx(1e-4)
    assert wakeups.wakeup_s("cpu:openvino", 4e-3) == pytest.approx(4e-4)
    assert wakeups.wakeup_s("cpu:ort", 1.0) == 0.0
    known["cpu:openvino"] = msgspec.structs.replace(
        known["cpu:openvino"], wakeups=(WakeupPoint("cpu:ort", 0.0, 1.0, 1.0),)
    )
    with pytest.raises(InvalidProfile, match="wake-up costs of cpu:openvino"):
        save(profile, tmp_path / "p.json")
