"""A saved plan loads unchanged, and any tampering is detected."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.runtime.errors import InvalidPlan, StorageFailed
from trisect.runtime.plans.plan import Plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    return small_models.split(
        path, [CPU, GPU], FakeCosts(), "test-blocks:2", shapes={"batch": 1}, out_folder=tmp_path / "plan"
    )


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit plan.json as with a text editor."""
    document = json.loads((folder / "plan.json").read_text())
    edit(document)
    (folder / "plan.json").write_text(json.dumps(document))


def test_a_saved_plan_loads_unchanged(plan: Plan, tmp_path: Path) -> None:
    assert Plan.load(tmp_path / "plan") == plan
    copy = plan.save(tmp_path / "copy")
    assert copy.folder == str(tmp_path / "copy")
    names = sorted(f.name for f in (tmp_path / "copy").iterdir())
    assert names == ["plan.json", "segment_000.onnx", "segment_001.onnx", "weights.bin"]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "plan" / name).read_bytes()
    assert plan.save(tmp_path / "plan") == plan
    with pytest.raises(StorageFailed, match="other than a plan"):
        plan.save(tmp_path)


def test_intervals_are_saved_and_a_plan_without_them_has_the_bytes_of_earlier_versions(
    plan: Plan, tmp_path: Path
) -> None:
    assert "interval" not in (tmp_path / "plan" / "plan.json").read_text()
    predicted = replace(plan.predicted, latency_interval_s=(0.5, 2.0), segment_intervals_s={"segment 0": (0.25, 1.0)})
    certain = replace(plan, interval=(0.5, 2.0), predicted=predicted)
    certain.save(tmp_path / "plan")
    loaded = Plan.load(tmp_path / "plan")
    assert loaded == certain
    assert (loaded.interval, loaded.predicted.segment_intervals_s) == ((0.5, 2.0), {"segment 0": (0.25, 1.0)})


def test_every_damaged_byte_of_every_file_is_detected(plan: Plan, tmp_path: Path) -> None:
    for file in sorted((tmp_path / "plan").iterdir()):
        whole = file.read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 60)):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            file.write_bytes(damaged)
            with pytest.raises(InvalidPlan):
                Plan.load(tmp_path / "plan")
        file.write_bytes(whole[:-2])
        with pytest.raises(InvalidPlan):
            Plan.load(tmp_path / "plan")
        file.unlink()
        with pytest.raises(InvalidPlan, match="missing"):
            Plan.load(tmp_path / "plan")
        file.write_bytes(whole)
    assert Plan.load(tmp_path / "plan") == plan


@pytest.mark.parametrize("name", ["../plan/weights.bin", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", ""])
def test_names_may_not_leave_the_folder(plan: Plan, tmp_path: Path, name: str) -> None:
    for part in ("segment", "weights"):

        def rename(document: dict[str, Any], part: str = part) -> None:
            target = document["plan"]["weights"] if part == "weights" else document["plan"]["segments"][0]
            target["file"] = name

        original = (tmp_path / "plan" / "plan.json").read_bytes()
        change(tmp_path / "plan", rename)
        with pytest.raises(InvalidPlan, match="outside its folder"):
            Plan.load(tmp_path / "plan")
        (tmp_path / "plan" / "plan.json").write_bytes(original)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_files_may_not_be_links(plan: Plan, tmp_path: Path) -> None:
    weights = tmp_path / "plan" / "weights.bin"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidPlan, match="link"):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize(
    ("key", "value"), [("location", "../m.onnx"), ("offset", "-4096"), ("offset", "999999"), ("length", "x")]
)
def test_segments_may_read_only_the_plans_weights(plan: Plan, tmp_path: Path, key: str, value: str) -> None:
    segment = tmp_path / "plan" / plan.segments[0].file
    model = onnx.load(segment, load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)
    next(e for e in tensor.external_data if e.key == key).value = value
    segment.write_bytes(model.SerializeToString())

    def rehash(document: dict[str, Any]) -> None:
        document["plan"]["segments"][0]["sha256"] = hashlib.sha256(segment.read_bytes()).hexdigest()

    change(tmp_path / "plan", rehash)
    with pytest.raises(InvalidPlan, match="outside the plan's weights"):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=2), "version 2"),
        (lambda d: d.update(format="shopping-list"), "not a plan of trisect"),
        (lambda d: d["plan"].pop("devices"), "damaged"),
        (lambda d: d["plan"].update(value="quick"), "damaged"),
        (lambda d: d["plan"]["segments"].reverse(), "numbered"),
        (lambda d: d["plan"]["segments"][0].update(device="npu:z"), "not among"),
        (lambda d: d["plan"]["transfers"][0].update(target=7), "do not exist"),
    ],
)
def test_contents_are_checked(plan: Plan, tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    change(tmp_path / "plan", edit)
    with pytest.raises(InvalidPlan, match=message):
        Plan.load(tmp_path / "plan")


def test_folders_without_a_plan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nowhere", ".", "file"):
        with pytest.raises(InvalidPlan):
            Plan.load(tmp_path / name)
