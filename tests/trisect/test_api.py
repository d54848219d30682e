"""The public functions, used as documented, on a model whose outputs NumPy computes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import trisect
from tests.trisect.conftest import expected
from trisect import api, device_data, measured_runs
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.errors import InvalidInput, InvalidModel, InvalidProfile, UnknownDevice
from trisect.runtime.plans import plan_origins


def test_devices_are_selected_by_id_kind_and_list() -> None:
    everything = api.devices()
    assert "cpu:ort" in [device.id for device in everything]
    assert [device.id for device in api.devices(["cpu:ort"])] == ["cpu:ort"]
    with pytest.raises(UnknownDevice, match="cpu:ort"):
        api.devices("cpu:otr")


def test_a_split_computes_the_models_outputs(plan_folder: Path) -> None:
    plan = trisect.Plan.load(plan_folder)
    assert len(plan.segments) == 3
    x = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    with trisect.Session(plan) as session:
        (answer,) = session.run({"x": x}).values()
    np.testing.assert_allclose(answer, expected(x), rtol=1e-4, atol=1e-5)


def test_a_plan_without_a_folder_lives_as_long_as_the_process(model: Path, measured: None) -> None:
    plan = trisect.split(model, "cpu:ort", shapes={"batch": 2}, progress=None)
    assert set(plan.placement.values()) == {"cpu:ort"}
    assert plan.gap >= 0
    assert trisect.verify(plan).ok


def test_the_same_split_twice_gives_the_same_files(model: Path, two_devices: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trisect.split(model, two_devices, shapes={"batch": 2}, out=tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_run_repeats_and_takes_medians(plan_folder: Path) -> None:
    steps: list[tuple[object, ...]] = []
    x = np.ones((3, 16), np.float32)
    result = measured_runs.run(
        trisect.Plan.load(plan_folder),
        {"x": x},
        repeat=3,
        progress=lambda done, total, text: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert list(result.measured.segments_s) == ["segment 0", "segment 1", "segment 2"]
    for name, median_s in result.measured.segments_s.items():
        assert median_s == sorted(e.duration_s for e in result.trace.events if e.name == name)[1]
    low_s, high_s = result.measured.latency_quartiles_s
    assert low_s <= result.measured.latency_s <= high_s
    assert result.measured.latency_s >= result.trace.latency_s  # a call contains its events
    assert result.measured.runs == 3
    assert {event.item for event in result.trace.events} == {0, 1, 2}
    np.testing.assert_allclose(next(iter(result.outputs.values())), expected(x), rtol=1e-4, atol=1e-5)


def test_run_generates_feeds_from_the_seed(plan_folder: Path) -> None:
    plan = trisect.Plan.load(plan_folder)
    first, same, other = (measured_runs.run(plan, repeat=1, seed=seed).outputs["r5"] for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_verify_finds_the_model_that_was_split(plan_folder: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(plan_folder, tmp_path / "moved")
    assert trisect.verify(trisect.Plan.load(tmp_path / "moved")).ok
    assert trisect.verify(trisect.Plan.load(plan_folder), model=model).ok


def test_verify_refuses_another_model(plan_folder: Path, model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    proto.producer_name = "another producer"
    onnx.save(proto, tmp_path / "layers.onnx")
    with pytest.raises(InvalidInput, match="is not the model"):
        trisect.verify(trisect.Plan.load(plan_folder), model=tmp_path / "layers.onnx")
    with pytest.raises(InvalidInput, match="cannot read"):
        trisect.verify(trisect.Plan.load(plan_folder), model=tmp_path / "nothing.onnx")


def test_verify_asks_for_the_model_when_its_file_is_missing(
    model: Path, measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy.onnx"
    shutil.copy(model, copy)
    plan = trisect.split(copy, "cpu:ort", shapes={"batch": 1})
    assert plan_origins.find_model(plan) == copy.resolve()
    copy.unlink()
    with pytest.raises(InvalidInput, match="does not exist any more; give the model with --model"):
        trisect.verify(plan)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InvalidInput, match="was not split on this machine"):
        trisect.verify(plan)


def test_a_split_succeeds_when_the_cache_cannot_be_written(
    model: Path, measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert trisect.split(model, "cpu:ort", shapes={"batch": 1}).segments


def test_measured_devices_are_not_measured_again(model: Path, measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(device_data, "measure", fail)
    trisect.split(model, "cpu:ort", shapes={"batch": 1})


def test_unmeasured_devices_are_measured_once_after_the_model_is_checked(
    model: Path, measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic = store.load(store.default_path())
    monkeypatch.setenv(store.PROFILES_VARIABLE, str(tmp_path))
    asked: list[tuple[list[str], float]] = []

    def measure(devices: list[trisect.Device], *, budget_s: float, **_: object) -> Profile:
        asked.append(([device.id for device in devices], budget_s))
        return synthetic

    monkeypatch.setattr(device_data, "measure", measure)
    with pytest.raises(InvalidModel):
        trisect.split(tmp_path / "nothing.onnx", "cpu:ort")
    assert asked == []
    trisect.split(model, "cpu:ort", shapes={"batch": 1})
    trisect.split(model, "cpu:ort", shapes={"batch": 1})
    assert asked == [(["cpu:ort"], device_data.MODELLED_BUDGET_S)]


def test_costs_of_another_engine_version_are_ignored(measured: None) -> None:
    stored = store.load(store.default_path())
    (device,) = api.devices("cpu:ort")
    assert "cpu:ort" in device_data.still_valid(stored, [device]).devices
    assert "cpu:ort" not in device_data.still_valid(stored, [replace(device, engine_version="0")]).devices


def test_a_damaged_profile_is_refused_and_not_overwritten(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store.PROFILES_VARIABLE, str(tmp_path))
    store.default_path().write_text("{")
    with pytest.raises(InvalidProfile):
        trisect.split(model, "cpu:ort", shapes={"batch": 1})
    assert store.default_path().read_text() == "{"


def test_a_model_whose_name_is_not_utf_8_is_split_and_a_folder_with_such_a_name_is_refused(
    model: Path, tmp_path: Path
) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.onnx"))
    try:
        shutil.copyfile(model, named)
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    split = partial(trisect.split, named, "cpu:ort", "single:cpu:ort", shapes={"batch": 1})
    plan = split(out=tmp_path / "plan")
    assert trisect.Plan.load(tmp_path / "plan").model == plan.model == r"m\xff.onnx"
    for call in (lambda: split(out=named.with_suffix("")), lambda: trisect.Plan.load(named.with_suffix(""))):
        with pytest.raises(trisect.TrisectError, match="its name is not UTF-8"):
            call()
