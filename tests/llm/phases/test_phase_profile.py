"""Phase profiles are stored, and read with every value checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.phases.phase_measurement import PhaseScope, measure_phases
from trisect.llm.phases.phase_profile import (
    PhasePoint,
    PhaseProfile,
    load_phases,
    merged_phases,
    phases_path,
    save_phases,
    stored_phases,
)
from trisect.runtime.errors import InvalidProfile, ProfileMissing

DEVICES = [kit.device("cpu:ort"), kit.device("cpu:openvino")]


@pytest.fixture(scope="module")
def bundle(tiny_llms: TinyLlms) -> Bundle:
    return tiny_llms.get("llama", "Q4_1").bundle


@pytest.fixture(scope="module")
def profile(bundle: Bundle) -> PhaseProfile:
    return measure_phases(bundle, DEVICES, threads=1, scope=PhaseScope(rounds=1))


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


def test_saved_and_loaded_it_is_the_same(bundle: Bundle, profile: PhaseProfile, path: Path) -> None:
    assert load_phases(path, bundle, DEVICES) == profile
    one = load_phases(path, bundle, DEVICES[:1])
    assert list(one.devices) == ["cpu:ort"]
    assert [entry.name for entry in path.parent.iterdir()] == ["phases.json"]


def test_the_path_depends_on_model_precision_and_threads(bundle: Bundle) -> None:
    paths = {
        phases_path(bundle, "fast", None),
        phases_path(bundle, "fast", 2),
        phases_path(bundle, "float32", None),
        phases_path(replace(bundle, source_sha256="other"), "fast", None),
    }
    assert len(paths) == 4


def test_outdated_profiles_are_measured_again(bundle: Bundle, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileMissing):
        load_phases(tmp_path / "nowhere.json", bundle, DEVICES)
    newer = [DEVICES[0], replace(DEVICES[1], engine_version="99")]
    with pytest.raises(ProfileMissing, match="on cpu:openvino"):
        load_phases(path, bundle, newer)
    with pytest.raises(ProfileMissing, match="on cpu:ort"):
        load_phases(path, bundle, [replace(DEVICES[0], name="another processor"), DEVICES[1]])
    with pytest.raises(ProfileMissing, match="were not measured here"):
        load_phases(path, replace(bundle, source_sha256="other"), DEVICES)
    change(path, "handovers", to=[])
    with pytest.raises(ProfileMissing, match="handing over from cpu:ort to cpu:openvino"):
        load_phases(path, bundle, DEVICES)
    assert load_phases(path, bundle, DEVICES[:1])


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("devices", "cpu:ort", "decode", 0, "time_s"), -1.0),
        (("devices", "cpu:ort", "decode", 0, "time_s"), None),
        (("devices", "cpu:ort", "prefill", 1, "tokens"), 1),
        (("devices", "cpu:ort", "prefill", 0, "tokens"), 0),
        (("devices",), []),
        (("schema",), "1"),
        (("schema",), [2]),
        (("model",), 3),
    ],
)
def test_damaged_figures_are_rejected_with_a_remedy(
    bundle: Bundle, path: Path, keys: tuple[Any, ...], value: Any
) -> None:
    change(path, *keys, to=value)
    with pytest.raises(InvalidProfile, match="move it away; it is measured again") as caught:
        load_phases(path, bundle, DEVICES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("devices", "cpu:ort", "prefill"), "on cpu:ort"),
        (("devices", "cpu:ort", "decode"), "on cpu:ort"),
        (("handovers", 0, "points"), "handing over"),
    ],
)
def test_what_an_interrupted_measurement_lacks_is_missing(
    bundle: Bundle, path: Path, keys: tuple[Any, ...], reason: str
) -> None:
    change(path, *keys, to=[])
    with pytest.raises(ProfileMissing, match=reason):
        load_phases(path, bundle, DEVICES)
    assert stored_phases(path, bundle, DEVICES) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", b"{}"])
def test_other_files_are_rejected(bundle: Bundle, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidProfile, match="malformed"):
        load_phases(path, bundle, DEVICES)


def test_newer_and_huge_files_are_rejected(bundle: Bundle, path: Path) -> None:
    change(path, "schema", to=99)
    with pytest.raises(InvalidProfile, match=r"version 99, newer than this trisect reads .*; update trisect"):
        load_phases(path, bundle, DEVICES)
    path.write_bytes(b" " * (5 << 20))
    with pytest.raises(InvalidProfile, match="too large"):
        load_phases(path, bundle, DEVICES)
    with pytest.raises(InvalidProfile, match="cannot be read"):
        load_phases(path.parent, bundle, DEVICES)


def test_a_profile_that_cannot_be_written_is_no_reason_to_fail(
    profile: PhaseProfile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.touch()
    save_phases(profile, path / "below a file.json")
    assert "the times of the phases cannot be stored" in caplog.text


def test_devices_that_another_process_has_stored_are_not_lost(
    bundle: Bundle, profile: PhaseProfile, tmp_path: Path
) -> None:
    path = tmp_path / "both.json"
    first, *others = profile.devices
    save_phases(replace(profile, devices={first: profile.devices[first]}), path)
    save_phases(replace(profile, devices={name: profile.devices[name] for name in others}, handovers=()), path)
    assert load_phases(path, bundle, DEVICES) == profile


def test_what_was_measured_with_another_version_of_an_engine_is_dropped(profile: PhaseProfile) -> None:
    (one, first), (other, second) = profile.devices.items()
    point = PhasePoint(4000, 9.0, 0.0)
    longer = tuple(replace(row, points=(*row.points, point)) for row in profile.handovers)
    older = replace(profile, devices={one: replace(first, engine_version="0"), other: second}, handovers=longer)
    merged = merged_phases(older, profile)
    assert (merged.devices, merged.handovers) == (profile.devices, profile.handovers)
    assert point in merged_phases(replace(older, devices=profile.devices), profile).handovers[0].points
