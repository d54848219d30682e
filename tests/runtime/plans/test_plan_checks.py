"""What a plan claims about names, sizes, dtypes and shapes is checked when it is loaded, before use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.runtime.errors import InvalidPlan, OutOfMemory
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    return small_models.split(
        path, [CPU, GPU], FakeCosts(), "test-blocks:2", shapes={"batch": 1}, out_folder=tmp_path / "plan"
    )


def spec(where: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return an edit of the first tensor in a list of the plan, or of all its first segment."""

    def edit(plan: dict[str, Any]) -> None:
        (plan if where in ("inputs", "outputs") else plan["segments"][0])[where.split(".")[-1]][0].update(changes)

    return edit


def everywhere(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return an edit of an input in all places where the plan describes it."""

    def edit(plan: dict[str, Any]) -> None:
        name = plan["inputs"][0]["name"]
        for tensors in (plan["inputs"], *(segment["inputs"] for segment in plan["segments"])):
            for tensor in tensors:
                if tensor["name"] == name:
                    tensor.update(changes)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (everywhere(shape=[10**12]), "has other|float32"),
        (spec("inputs", shape=[1 << 40, 1 << 40]), "larger than any memory"),
        (spec("inputs", shape=[1 << 80]), "has the dimension 1208925819614629174706176"),
        (spec("inputs", shape=[-1]), "has the dimension -1"),
        (spec("inputs", shape=[1] * 100), "has 100 dimensions"),
        (spec("outputs", shape=[True]), "damaged"),
        (spec("outputs", shape=[1.5]), "damaged"),
        (spec("outputs", dtype="seq(" * 1000 + "float32" + ")" * 1000), "unknown dtype"),
        (spec("outputs", dtype="float31"), "unknown dtype"),
        (spec("outputs", dtype="seq(float32"), "unknown dtype"),
        (spec("inputs", layout="NHWC"), "layout NHWC and 2 dimensions"),
        (everywhere(shape=[1, 32, 1]), "but"),
        (everywhere(dtype="float64"), "but"),
        (everywhere(name="other"), "other inputs or outputs"),
        (spec("segments.inputs", shape=[1, 33]), "but"),
        (spec("segments.outputs", shape=[1, 33]), "but"),
        (spec("segments.outputs", dtype="int64"), "but"),
        (lambda p: p["shapes"].update(batch=-1), "the size -1"),
        (lambda p: p["segments"][0].update(file="a\0b.onnx"), "outside its folder"),
        (lambda p: p["segments"][0].update(file="a" * 5000), "outside its folder"),
        (lambda p: p["weights"].update(file="\ud800"), "damaged|outside|missing"),
        (lambda p: p.update(interval=[2.0, 1.0]), "interval of 'objective' is 2 to 1, expected"),
        (lambda p: p.update(interval=[-1.0, 1.0]), "interval of 'objective' is -1 to 1, expected"),
        (lambda p: p.update(interval=[1.0]), "damaged"),
        (lambda p: p["comparison"]["plan"].update(seconds=-1.0), "takes -1 s"),
        (lambda p: p.update(interval=[1.0, "2"]), "damaged"),
        (lambda p: p["predicted"].update(latency_interval_s=[0.0, float("inf")]), "damaged"),
        (lambda p: p["predicted"].update(segment_intervals_s={"segment 0": [3, 2]}), "interval of 'segment 0' is 3 to"),
    ],
)
def test_claims_are_checked(plan: Plan, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    path = Path(plan.folder) / "plan.json"
    document = json.loads(path.read_text())
    edit(document["plan"])
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidPlan, match=message) as refusal:
        Plan.load(plan.folder)
    assert len(str(refusal.value)) < 1000


def test_what_is_no_regular_file_is_refused(plan: Plan) -> None:
    for name in ("plan.json", plan.segments[0].file, "weights.bin"):
        path = Path(plan.folder) / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InvalidPlan, match="a pipe"):
            Plan.load(plan.folder)
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(InvalidPlan, match=r"a device|is a link"):
            Plan.load(plan.folder)
        path.unlink()
        path.write_bytes(content)
    assert Plan.load(plan.folder) == plan


def test_feeds_are_generated_only_where_memory_for_them_is_free(plan: Plan) -> None:
    huge = replace(plan, inputs=(TensorSpec(plan.inputs[0].name, "float32", (1 << 40,)),))
    with pytest.raises(OutOfMemory, match=r"random inputs .* need 1.*e\+04 GB, and .* are free"):
        plan_feeds(huge)
