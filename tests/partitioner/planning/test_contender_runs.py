"""Plans that compete run on real engines, which load equal segments once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import FakeCosts
from trisect.partitioner.planning import contender_runs
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan

ONCE = {"duration_s": 0.0, "enough_s": 60.0}


@pytest.fixture
def devices() -> list[Device]:
    return find_devices("cpu:ort,cpu:openvino")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Run in this process, and record what is loaded."""
    known: list[tuple[str, str]] = []
    load = contender_runs.load

    def recorded(path: Path, device: Device, options: LoadOptions) -> Module:
        known.append((device.id, path.name))
        return load(path, device, options)

    monkeypatch.setattr(contender_runs, "load", recorded)
    yield known
    contender_runs._unload_all()


def plan_of(devices: list[Device], folder: Path, last_device: int, objective: str = "latency") -> Plan:
    """Return a plan of two or three segments; the first one is the same in all of them."""
    model = folder / "m.onnx"
    if not model.exists():
        small_models.mlp(model, layers=6)
    first, second = devices
    places = [first.id] * 6 + [second.id] * 6 + [devices[last_device].id] * 6
    names = list(small_models.Graph.read(model, {"batch": 3}).nodes)
    force = dict(zip(names, places, strict=True))
    return small_models.split(
        model, devices, FakeCosts(), "heft", objective, {"batch": 3}, 0, folder / f"plan {last_device} {objective}",
        constraints={"force": force},
    )  # type: ignore[arg-type]  # fmt: skip


def test_segments_that_are_equal_are_loaded_once(
    devices: list[Device], tmp_path: Path, loaded: list[tuple[str, str]]
) -> None:
    long, short = plan_of(devices, tmp_path, 0), plan_of(devices, tmp_path, 1)
    assert [len(long.segments), len(short.segments)] == [3, 2]
    assert long.segments[0].sha256 == short.segments[0].sha256
    for plan in (long, short):
        runs = contender_runs._run_first(Path(plan.folder), **ONCE)
        assert len(runs.timing.segments_s) == len(plan.segments)
        assert runs.value_s == runs.timing.latency_s > 0
    one, other = (device.id for device in devices)
    middle = [(other, "segment_001.onnx")] * 2  # they end at different places
    assert sorted(loaded) == sorted([(one, "segment_000.onnx"), *middle, (one, "segment_002.onnx")])
    rounds = contender_runs._run_in_turns([Path(long.folder), Path(short.folder)], 3, 0.0)
    assert len(rounds) == 3
    assert all(time_s is not None and time_s > 0 for one in rounds for time_s in one.times_s)
    assert len(loaded) == 4


def test_the_time_per_item_of_a_stream(devices: list[Device], tmp_path: Path, loaded: list[tuple[str, str]]) -> None:
    plan = plan_of(devices, tmp_path, 0, "throughput")
    runs = contender_runs._run_first(Path(plan.folder), **ONCE)
    assert runs.value_s > 0
    assert runs.value_s != runs.timing.latency_s


def test_a_plan_that_does_not_run_is_none_in_its_rounds(
    devices: list[Device], tmp_path: Path, loaded: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = plan_of(devices, tmp_path, 0), plan_of(devices, tmp_path, 1)
    contender = contender_runs._contender(Path(wrong.folder))

    def fail() -> float:
        raise EngineFailed("gone")

    monkeypatch.setattr(contender, "run_s", fail)
    rounds = contender_runs._run_in_turns([Path(right.folder), Path(wrong.folder)], 2, 0.0)
    assert [[time_s is None for time_s in one.times_s] for one in rounds] == [[False, True]] * 2
