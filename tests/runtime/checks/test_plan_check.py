"""A new plan is right, wrong with the segment at fault, or not verified with a reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trisect.runtime.checks.plan_check import check_plan
from trisect.runtime.plans.check_result import PlanCheck
from trisect.runtime.plans.plan import Plan
from trisect.runtime.tensors.tensor_spec import TensorSpec


def checked(plan: Plan, model: Path, tolerance: float | None = None) -> PlanCheck:
    """Save a plan as a folder of its own, with the files as they are, and check it."""
    segments = tuple(
        replace(s, sha256=hashlib.sha256((Path(plan.folder) / s.file).read_bytes()).hexdigest()) for s in plan.segments
    )
    saved = replace(plan, segments=segments).save(Path(plan.folder) / "saved")
    return check_plan(Path(saved.folder), model, tolerance)


def spoil(plan: Plan, index: int, model: bytes) -> None:
    (Path(plan.folder) / plan.segments[index].file).write_bytes(model)


def test_a_right_plan_is_verified(diamond: Plan, whole: Path) -> None:
    check = checked(diamond, whole)
    assert check.ok
    assert (check.reference, check.skipped_reason) == ("cpu:ort", "")
    assert check.max_abs < 1e-5
    assert "verified against the whole model on cpu:ort" in str(check)


def test_the_segment_at_fault_is_named(diamond: Plan, whole: Path, model: Any) -> None:
    spoil(diamond, 2, model("g (float[n,3] b) => (float[n,3] r) { r = Neg(b) }"))  # was |b|
    check = checked(diamond, whole)
    assert check.ok is False
    assert (check.wrong_segment, check.wrong_output) == (2, "y")
    assert "'y' is off by" in str(check)
    assert checked(diamond, whole, tolerance=100.0).ok


def test_a_segment_that_fails_is_at_fault(diamond: Plan, whole: Path, model: Any) -> None:
    text = "g (float[n,3] b) => (float[n,3] r) { s = Constant<value_ints=[0]>() e = Constant<value_ints=[2]>() "
    spoil(diamond, 2, model(text + "x = Constant<value_ints=[1]>() r = Slice(b, s, e, x) }"))
    check = checked(diamond, whole)
    assert check.ok is False
    assert check.wrong_segment == 2
    assert "but the plan states" in check.wrong


def test_random_numbers_are_not_verified(make_plan: Any, model: Any, tmp_path: Path) -> None:
    text = "g (float[n,3] x) => (float[n,3] y) { r = RandomUniformLike(x)  y = Add(x, r) }"
    path = tmp_path / "model.onnx"
    path.write_bytes(model(text))
    spec = TensorSpec("x", "float32", ("n", 3))
    check = checked(make_plan([("cpu:openvino", text)], [spec], [replace(spec, name="y")]), path)
    assert check.ok is None
    assert check.skipped_reason == "RandomUniformLike gives other numbers in each run"


@pytest.mark.parametrize(("divisor", "ok"), [(10.0, None), (1e9, False)])
def test_differences_that_rounding_makes_prove_nothing(
    make_plan: Any, model: Any, tmp_path: Path, divisor: float, ok: bool | None
) -> None:
    def text(factor: float) -> str:  # the last digit of a large number
        return (
            f"g (float[n,3] x) => (float[n,3] y) {{ k = Constant<value_float={factor}>() "
            f"d = Constant<value_float={divisor}>() p = Mul(x, k) f = Floor(p) y = Mod<fmod=1>(f, d) }}"
        )

    path = tmp_path / "model.onnx"
    path.write_bytes(model(text(100000.0)))
    spec = TensorSpec("x", "float32", ("n", 3))
    check = checked(make_plan([("cpu:ort", text(100900.0))], [spec], [replace(spec, name="y")]), path)
    assert check.ok is ok
    assert ok is False or "changes when the inputs and weights change by their rounding" in check.skipped_reason
