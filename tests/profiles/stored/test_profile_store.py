"""Profiles are loaded as they were saved; invalid files are refused and left unchanged."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.stored.profile_data import (
    SCHEMA,
    DeviceProfile,
    Link,
    LinkPoint,
    Point,
    Profile,
    Provenance,
    WakeupPoint,
)
from trisect.profiles.stored.profile_store import (
    default_path,
    load,
    load_own,
    load_prior,
    prior_path,
    save,
    update,
)
from trisect.runtime.errors import InvalidProfile, StorageFailed


@pytest.fixture
def profile() -> Profile:
    point = Point("matmul:1", OpClass.MATMUL, "MatMul", 2e6, 1000, 1e-4, 0.1)
    device = DeviceProfile("cpu:a", "Ä CPU", "1", 1e-5, 1e-6, (point,), {"conv:1": "no kernel"}, 1e11)
    link = Link("cpu:a", "cpu:b", 1e-5, None, (LinkPoint(4096, 1e-5),))
    origin = Provenance("measured", "host", "cpu", "Linux", "2026-01-01T00:00:00+00:00", {"a": "1"}, None, 2)
    return Profile(origin, "float32", {"cpu:a": device}, (link,), 3e10)


def test_a_saved_profile_is_loaded_unchanged(profile, tmp_path):
    path = tmp_path / "deep" / "er" / "profile.json"
    save(profile, path)
    assert load(path) == profile
    save(replace(profile, precision="fast"), path)
    assert load(path).precision == "fast"
    assert os.listdir(path.parent) == ["profile.json"]


def spoiled(text: str) -> list[bytes]:
    good = json.loads(text)

    def with_(change) -> bytes:
        copy = json.loads(text)
        change(copy)
        return json.dumps(copy).encode()

    device, point = good["devices"]["cpu:a"], good["devices"]["cpu:a"]["points"][0]
    assert device
    assert point
    return [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "1"}', text.encode()[:-20],
        with_(lambda p: p.update(schema=99)),
        with_(lambda p: p.pop("devices")),
        with_(lambda p: p["devices"]["cpu:a"].update(device="cpu:b")),
        with_(lambda p: p["devices"]["cpu:a"]["points"][0].update(time_s=0)),
        with_(lambda p: p["devices"]["cpu:a"]["points"][0].update(time_s=-1)),
        with_(lambda p: p["devices"]["cpu:a"]["points"][0].update(op_class="magic")),
        with_(lambda p: p["devices"]["cpu:a"].update(call_overhead_s=0)),
        with_(lambda p: p["links"][0].update(bandwidth_bytes_per_s=0)),
        with_(lambda p: p["links"][0].update(latency_s=-1)),
    ]  # fmt: skip


def test_malformed_and_newer_files_are_refused_and_never_overwritten(profile, tmp_path):
    path = tmp_path / "profile.json"
    save(profile, path)
    for bad in spoiled(path.read_text(encoding="utf-8")):
        path.write_bytes(bad)
        with pytest.raises(InvalidProfile) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(InvalidProfile):
            save(profile, path)
        assert path.read_bytes() == bad


def test_the_profile_of_another_machine_is_not_taken_for_this_one_but_kept(profile, tmp_path):
    path = tmp_path / "profile.json"
    assert load_own(path) is None
    assert load_prior(path) is None
    save(profile, path)
    content = path.read_bytes()
    assert load_own(path) is None
    assert load_prior(path) == profile
    assert path.read_bytes() == content
    own = replace(profile, provenance=replace(profile.provenance, host=platform.node()))
    assert update(own, path, []) == own
    assert load_own(path) == own
    assert load_prior(path) == profile
    assert prior_path(path).read_bytes() == content
    update(own, path, [])
    assert prior_path(path).read_bytes() == content


def test_a_newer_version_is_named(profile, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text('{"schema": 7, "whatever": 1}')
    with pytest.raises(InvalidProfile, match="version 7, newer than this trisect"):
        load(path)


def test_missing_files_and_unwritable_folders_are_errors(profile, tmp_path):
    with pytest.raises(InvalidProfile, match="cannot be read"):
        load(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        save(profile, tmp_path / "file" / "profile.json")


def test_a_full_disk_leaves_nothing_behind(profile, tmp_path, monkeypatch):
    path = tmp_path / "profile.json"
    save(profile, path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageFailed, match="No space left"):
        save(replace(profile, precision="fast"), path)
    assert os.listdir(tmp_path) == ["profile.json"]
    assert load(path) == profile


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path))
    assert default_path("fast").parent == tmp_path
    assert default_path("fast") != default_path("float32")
    monkeypatch.delenv("TRISECT_PROFILES")
    assert default_path().is_absolute()


def test_a_profile_of_version_1_is_upgraded(profile, tmp_path):
    """Version 1 has neither contention nor memory."""
    path = tmp_path / "profile.json"
    save(profile, path)
    old = json.loads(path.read_text())
    assert old["schema"] == SCHEMA > 1
    old["schema"] = 1
    del old["contention"]
    for device in old["devices"].values():
        device.pop("memory", None)
    path.write_text(json.dumps(old))
    assert load(path) == profile
    save(load(path), path)
    assert json.loads(path.read_text())["schema"] == SCHEMA


def test_an_impossible_figure_is_not_written(profile, tmp_path):
    path = tmp_path / "profile.json"
    name, device = next(iter(profile.devices.items()))
    with pytest.raises(InvalidProfile, match=f"overheads of {name}"):
        save(replace(profile, devices={name: msgspec.structs.replace(device, call_overhead_s=0.0)}), path)
    assert not path.exists()


def test_wake_up_costs_keep_their_names_on_disk(profile, tmp_path):
    path = tmp_path / "profile.json"
    name, device = next(iter(profile.devices.items()))
    point = WakeupPoint("cpu:b", 1e-3, 3e-4, 1e-4)
    woken = replace(profile, devices={name: msgspec.structs.replace(device, wakeups=(point,))})
    save(woken, path)
    stored = json.loads(path.read_text())["devices"][name]["wakings"]
    assert stored == [{"beside": "cpu:b", "idle_s": 1e-3, "asleep_s": 3e-4, "awake_s": 1e-4}]
    assert load(path) == woken


def test_an_update_keeps_what_another_process_has_stored_meanwhile(profile, tmp_path):
    """Both read the profile with device a; one then measures b, the other measures a further, and c."""
    path = tmp_path / "profile.json"
    save(profile, path)
    a = profile.devices["cpu:a"]
    b, c = msgspec.structs.replace(a, device="cpu:b"), msgspec.structs.replace(a, device="gpu:c")
    more = replace(a.points[0], case="matmul:2")
    theirs = replace(profile, devices={"cpu:a": a, "cpu:b": b}, links=(replace(profile.links[0], latency_s=2e-5),))
    assert update(theirs, path, ["cpu:a", "cpu:b"]) == theirs
    further = msgspec.structs.replace(a, points=(more,), refused={})
    ours = replace(profile, devices={"cpu:a": further, "gpu:c": c})
    updated = update(ours, path, ["cpu:a", "gpu:c"])
    assert load(path) == updated
    assert set(updated.devices) == {"cpu:a", "cpu:b", "gpu:c"}
    assert updated.devices["cpu:b"] == b
    assert {point.case for point in updated.devices["cpu:a"].points} == {"matmul:1", "matmul:2"}
    assert updated.devices["cpu:a"].refused == a.refused
    assert updated.links == theirs.links  # not measured again: b was not among ours


def test_an_update_replaces_figures_of_an_older_engine_and_of_another_machine(profile, tmp_path):
    path = tmp_path / "profile.json"
    save(profile, path)
    newer = msgspec.structs.replace(profile.devices["cpu:a"], engine_version="2", points=())
    update(replace(profile, devices={"cpu:a": newer}), path, ["cpu:a"])
    assert load(path).devices == {"cpu:a": newer}
    elsewhere = replace(profile, provenance=replace(profile.provenance, host="another"), devices={"cpu:z": newer})
    elsewhere = replace(elsewhere, devices={"cpu:z": msgspec.structs.replace(newer, device="cpu:z")})
    assert update(elsewhere, path, ["cpu:z"]) == elsewhere
