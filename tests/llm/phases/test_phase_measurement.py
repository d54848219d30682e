"""Phases of a language model: measured at every length on every device, stored, and read with suspicion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle, PhaseGraph
from trisect.llm.phases import phase_measurement as phases
from trisect.llm.phases.phase_measurement import PhaseProfile, load_phases, measure_phases, phases_path, save_phases
from trisect.profiles.stored.provenance import provenance
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InvalidProfile, ProfileMissing, StorageFailed

DEVICES = [kit.device("cpu:ort"), kit.device("cpu:openvino")]


@pytest.fixture(scope="module")
def bundle(tiny_llms: TinyLlms) -> Bundle:
    return tiny_llms.get("llama", "Q4_1").bundle


@pytest.fixture(scope="module")
def profile(bundle: Bundle) -> PhaseProfile:
    return measure_phases(bundle, DEVICES, threads=1, rounds=2)


@pytest.fixture
def path(profile: PhaseProfile, tmp_path: Path) -> Path:
    save_phases(profile, tmp_path / "phases.json")
    return tmp_path / "phases.json"


def change(path: Path, *keys: Any, to: Any) -> None:
    document = json.loads(path.read_text())
    at = document
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    path.write_text(json.dumps(document))


def test_everything_is_measured(bundle: Bundle, profile: PhaseProfile) -> None:
    assert profile.model == bundle.key
    assert (profile.precision, profile.threads) == ("fast", 1)
    assert list(profile.devices) == [device.id for device in DEVICES]
    for device in DEVICES:
        measured = profile.devices[device.id]
        assert (measured.name, measured.engine_version) == (device.name, device.engine_version)
        assert [point.tokens for point in measured.prefill] == [1, 16, 64, 128]  # the context is of 256
        assert [point.tokens for point in measured.decode] == [16]
        assert all(point.time_s > 0 and point.spread >= 0 for point in (*measured.prefill, *measured.decode))
        assert measured.load_s > 0
    pairs = [(handover.source, handover.target) for handover in profile.handovers]
    assert sorted(pairs) == [("cpu:openvino", "cpu:ort"), ("cpu:ort", "cpu:openvino")]
    for handover in profile.handovers:
        assert [point.tokens for point in handover.points] == [1, 16, 64, 128]
        assert all(point.time_s > 0 for point in handover.points)
    assert profile.provenance.source == "measured"
    assert set(profile.provenance.engines) == {"ort", "openvino"}


def test_progress_counts_to_its_end(bundle: Bundle) -> None:
    told: list[tuple[int, int, str]] = []
    measure_phases(bundle, DEVICES[:1], threads=1, rounds=1, progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(1, told[-1][1] + 1))
    assert {"loading on cpu:ort", "prefill on cpu:ort", "decode on cpu:ort"} == {what for _, _, what in told}


def test_one_device_hands_nothing_over(bundle: Bundle) -> None:
    assert measure_phases(bundle, DEVICES[1:], threads=1, rounds=1).handovers == ()


@pytest.mark.parametrize("context", [14, 16, 20, 100])
def test_short_contexts(tiny_llms: TinyLlms, context: int) -> None:
    short = tiny_llms.get("llama", "F32", metadata={"llama.context_length": context}).bundle
    found = measure_phases(short, DEVICES, threads=1, rounds=1)
    for measured in found.devices.values():
        assert all(point.tokens < context for point in (*measured.prefill, *measured.decode))


def test_a_device_that_cannot_is_named(bundle: Bundle) -> None:
    in_place = replace(bundle, graphs=(PhaseGraph("in_place.onnx", cache="in-place"),))
    with pytest.raises(EngineFailed, match="cpu:openvino"):
        measure_phases(in_place, DEVICES, threads=1, rounds=1)


def test_runners_are_closed_whatever_happens(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    real = phases.load_runner

    def load(bundle: Bundle, device: Device, **options: Any) -> Any:
        if device.engine == "openvino":
            raise EngineFailed("cpu:openvino is out of order")
        runner = real(bundle, device, **options)
        monkeypatch.setattr(runner, "close", lambda: closed.append(device.id))
        return runner

    monkeypatch.setattr(phases, "load_runner", load)
    with pytest.raises(EngineFailed, match="out of order"):
        measure_phases(bundle, DEVICES, threads=1, rounds=1)
    assert closed == ["cpu:ort"]


def test_saved_and_loaded_it_is_the_same(bundle: Bundle, profile: PhaseProfile, path: Path) -> None:
    assert load_phases(path, bundle, DEVICES) == profile
    one = load_phases(path, bundle, DEVICES[:1])
    assert list(one.devices) == ["cpu:ort"]
    assert [entry.name for entry in path.parent.iterdir()] == ["phases.json"]


def test_the_place_tells_machine_model_precision_and_threads(bundle: Bundle) -> None:
    paths = {
        phases_path(bundle, "fast", None),
        phases_path(bundle, "fast", 2),
        phases_path(bundle, "float32", None),
        phases_path(replace(bundle, source_sha256="other"), "fast", None),
    }
    assert len(paths) == 4


def test_what_no_longer_holds_is_measured_again(bundle: Bundle, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileMissing):
        load_phases(tmp_path / "nowhere.json", bundle, DEVICES)
    newer = [DEVICES[0], replace(DEVICES[1], engine_version="99")]
    with pytest.raises(ProfileMissing, match="on cpu:openvino"):
        load_phases(path, bundle, newer)
    with pytest.raises(ProfileMissing, match="on cpu:ort"):
        load_phases(path, bundle, [replace(DEVICES[0], name="another processor"), DEVICES[1]])
    with pytest.raises(ProfileMissing, match="another model"):
        load_phases(path, replace(bundle, source_sha256="other"), DEVICES)
    change(path, "handovers", to=[])
    with pytest.raises(ProfileMissing, match="handing over from cpu:ort to cpu:openvino"):
        load_phases(path, bundle, DEVICES)
    assert load_phases(path, bundle, DEVICES[:1])


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("devices", "cpu:ort", "prefill"), []),
        (("devices", "cpu:ort", "decode"), []),
        (("devices", "cpu:ort", "decode", 0, "time_s"), -1.0),
        (("devices", "cpu:ort", "decode", 0, "time_s"), None),
        (("devices", "cpu:ort", "prefill", 1, "tokens"), 1),
        (("devices", "cpu:ort", "prefill", 0, "tokens"), 0),
        (("devices",), []),
        (("handovers", 0, "points"), []),
        (("schema",), "1"),
        (("schema",), [2]),
        (("model",), 3),
    ],
)
def test_damaged_figures_are_refused_with_a_remedy(
    bundle: Bundle, path: Path, keys: tuple[Any, ...], value: Any
) -> None:
    change(path, *keys, to=value)
    with pytest.raises(InvalidProfile, match="move it away; it is measured again") as caught:
        load_phases(path, bundle, DEVICES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", b"{}"])
def test_files_that_are_no_profile_are_refused(bundle: Bundle, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidProfile, match="damaged"):
        load_phases(path, bundle, DEVICES)


def test_newer_and_huge_files_are_refused(bundle: Bundle, path: Path) -> None:
    change(path, "schema", to=99)
    with pytest.raises(InvalidProfile, match="newer version; update trisect"):
        load_phases(path, bundle, DEVICES)
    path.write_bytes(b" " * (5 << 20))
    with pytest.raises(InvalidProfile, match="too large"):
        load_phases(path, bundle, DEVICES)
    with pytest.raises(InvalidProfile, match="damaged"):
        load_phases(path.parent, bundle, DEVICES)


def test_a_profile_that_cannot_be_written(profile: PhaseProfile, path: Path) -> None:
    with pytest.raises(StorageFailed):
        save_phases(profile, path / "below a file.json")


def test_provenance_tells_this_machine() -> None:
    found = provenance(DEVICES, 3)
    assert found.threads == 3
    assert found.engines == {device.engine: device.engine_version for device in DEVICES}
    assert found.cpu
    assert found.date.endswith("+00:00")
