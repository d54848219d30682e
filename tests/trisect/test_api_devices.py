"""Device names, plans for machines of the built-in database, and measurements that are interrupted."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from trisect import api, device_data
from trisect.cli import main
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import DeviceProfile, Point, Profile, Provenance
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.null import null_devices
from trisect.runtime.errors import EngineMissing, InvalidInput, StorageFailed, UnknownDevice
from trisect.runtime.sessions.session import Session

(ORT,) = engines.find_devices("cpu:ort")
PUBLISHED = ["cpu:openvino", "gpu:openvino", "npu:openvino"]


@pytest.fixture
def own_profiles(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


@pytest.fixture
def with_simulator(monkeypatch) -> list[Device]:
    everything = [ORT, *null_devices("npu", 1)]
    monkeypatch.setattr(engines, "discover", lambda: everything)
    return everything


def a_profile(*devices: Device) -> Profile:
    points = (Point("matmul:1", "matmul", "MatMul", 1e6, 1000, 1e-3),)
    profiles = {d.id: DeviceProfile(d.id, d.name, d.engine_version, 1e-5, 1e-6, points) for d in devices}
    return Profile(Provenance("measured", platform.node(), "", "", "", {}, None), "float32", profiles)


def test_auto_lists_all_devices_and_measures_hardware_only(with_simulator, own_profiles, monkeypatch):
    asked = []

    def measure(devices, **_):
        asked.append([device.id for device in devices])
        return a_profile(*devices)

    monkeypatch.setattr(api, "measure", measure)
    assert [device.id for device in api.devices()] == ["cpu:ort", "npu:null"]
    api.profile()
    api.profile("cpu:ort,npu:null")
    api.profile("npu")
    assert asked == [["cpu:ort"], ["cpu:ort", "npu:null"], ["npu:null"]]
    monkeypatch.setattr(engines, "discover", lambda: null_devices("npu", 2))
    api.profile()
    assert asked[-1] == ["npu:null", "npu:null#1"]


def test_a_device_of_a_missing_engine_names_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(engines, "unavailable", lambda: {"qnn": "onnxruntime-qnn is not installed; pip install X"})
    monkeypatch.setattr(engines, "discover", lambda: [ORT])
    with pytest.raises(EngineMissing, match="onnxruntime-qnn is not installed"):
        api.devices("npu:qnn")
    assert main(["devices", "npu:qnn"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UnknownDevice, match="did you mean cpu:ort"):
        api.devices("cpu:otr")


def test_a_plan_for_a_published_machine_can_be_made_but_not_run(model: Path, tmp_path: Path, own_profiles):
    plan = api.split(model, shapes={"batch": 512}, machine="intel-core-ultra-7-155h", out=tmp_path / "plan")
    assert [device.id for device in plan.devices] == PUBLISHED
    assert {device.reality for device in plan.devices} == {"published"}
    assert plan.predicted.latency_s > 0
    assert not own_profiles.exists() or not list(own_profiles.glob("*-float32.json"))
    with pytest.raises(EngineMissing, match="known from publications only"), Session(plan):
        pass
    with pytest.raises(UnknownDevice, match="there are: amd"):
        api.split(model, shapes={"batch": 1}, machine="abacus", out=tmp_path / "plan")
    only = api.split(model, "npu", shapes={"batch": 1}, machine="intel-core-ultra-7-155h", out=tmp_path / "plan")
    assert set(only.placement.values()) == {"npu:openvino"}


def test_the_command_line_notes_that_costs_are_published(model: Path, tmp_path: Path, capsys):
    words = ["split", str(model), "-o", str(tmp_path / "plan"), "--shape", "batch=4", "--machine", "nvidia-h200"]
    assert main(words) == 0
    assert "predicted from the published profile of nvidia-h200; nothing was measured" in capsys.readouterr().err
    assert main(["devices", "--machine", "snapdragon-x-elite"]) == 0
    out = capsys.readouterr().out
    assert out.count("published") == 3
    assert "npu:qnn" in out


def test_an_interrupted_measurement_is_stored_and_resumed(own_profiles, monkeypatch, capsys):
    partial = a_profile(ORT)

    def interrupted(devices, *, on_interrupt, **_):
        on_interrupt(partial)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "measure", interrupted)
    assert main(["profile", "--devices", "cpu:ort", "--budget", "1s"]) == 130
    assert "run the command again to continue" in capsys.readouterr().err
    assert store.load(store.default_path()) == partial
    seen = []

    def further(devices, *, known, **_):
        seen.append(known)
        return known

    monkeypatch.setattr(api, "measure", further)
    api.profile("cpu:ort")
    assert seen == [partial]


def test_a_budget_that_is_too_small_is_refused_and_nothing_is_written(own_profiles, monkeypatch, capsys):
    monkeypatch.setattr(api, "measure", lambda *_, **__: pytest.fail("measured"))
    for budget_s in (0.5, 0.0, -1.0, float("nan")):
        with pytest.raises(InvalidInput, match="is too small: expected 1 s or more"):
            api.profile("cpu:ort", budget_s=budget_s)
    for text in ("nonsense", "0", "-3s", "1ms", "nan", "inf"):
        assert main(["profile", "--budget", text]) == 2
        assert "expected a duration" in capsys.readouterr().err
    assert not own_profiles.exists()


def test_a_models_own_operators_are_measured_first(model: Path, own_profiles, monkeypatch):
    asked = []

    def measure(devices, *, model_cases, **_):
        asked.extend(case.name for case in model_cases)
        return a_profile(*devices)

    monkeypatch.setattr(api, "measure", measure)
    api.profile("cpu:ort", model=model, shapes={"batch": 1024})
    assert asked
    assert all(name.partition(":")[0] in ("matmul", "matvec", "elementwise") for name in asked)
    with pytest.raises(InvalidInput, match="batch"):
        api.profile("cpu:ort", model=model)


def test_a_cache_folder_that_cannot_be_written_ends_no_split(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the profile nor anything else can be stored; the profile serves this process."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "file" / "profiles"))
    monkeypatch.setattr(device_data, "BRIEF_BUDGET_S", 1.0)
    plan = api.split(model, "cpu:ort", shapes={"batch": 3}, out=tmp_path / "plan")
    assert plan.segments
    assert "the profile of this machine cannot be stored for the next time" in caplog.text
    assert set(device_data.stored_profile().devices) == {"cpu:ort"}
    with pytest.raises(StorageFailed, match="cannot be written"):
        api.profile("cpu:ort", budget_s=1.0)
