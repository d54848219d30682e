"""A split is verified before it is written: wrong segments are placed elsewhere, and what stays wrong is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

import trisect
from trisect.cli.application import main
from trisect.partitioner.planning.plan_verification import PlanVerifier
from trisect.runtime.errors import InvalidInput, VerificationFailed
from trisect.runtime.plans.check_result import PlanCheck


@pytest.fixture
def openvino_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report the first segment on cpu:openvino as wrong."""

    def check(self: PlanVerifier, plan: trisect.Plan) -> PlanCheck:
        wrong = next((s for s in plan.segments if s.device == "cpu:openvino"), None)
        if wrong is None:
            return PlanCheck(True, 0.0, 0.0, "none", "cpu:ort")
        output = plan.outputs[0].name
        return PlanCheck(False, 3.0, 1.0, "none", "cpu:ort", "", wrong.index, f"{output!r} is off by 3", output)

    monkeypatch.setattr(PlanVerifier, "check", check)


def test_a_split_is_verified_once(
    model: Path, two_devices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trisect.split(model, two_devices, "zigzag", shapes={"batch": 2}, out=tmp_path / "a")
    assert first.verified is not None
    assert first.verified.ok
    assert first.verified.max_abs < 1e-3

    def unexpected(*_: object) -> None:
        raise AssertionError("verified again")

    monkeypatch.setattr("trisect.partitioner.planning.plan_verification.call_isolated", unexpected)
    again = trisect.split(model, two_devices, "zigzag", shapes={"batch": 2}, out=tmp_path / "b")
    assert again.verified == first.verified
    assert trisect.Plan.load(tmp_path / "b").verified is None
    unverified = trisect.split(model, two_devices, "zigzag", shapes={"batch": 2}, out=tmp_path / "c", verify=False)
    assert unverified.verified is None
    assert (tmp_path / "a" / "plan.json").read_bytes() == (tmp_path / "c" / "plan.json").read_bytes()


def test_nodes_that_are_computed_differently_are_placed_elsewhere(
    model: Path, two_devices: str, tmp_path: Path, openvino_is_wrong: None
) -> None:
    plan = trisect.split(model, two_devices, "roundrobin", shapes={"batch": 2}, out=tmp_path / "plan")
    assert {segment.device for segment in plan.segments} == {"cpu:ort"}
    assert any("computes something else on cpu:openvino, so its nodes are kept off it" in n for n in plan.notes)
    assert plan.verified is not None
    assert plan.verified.ok


def test_nodes_that_cannot_be_placed_elsewhere_are_an_error(
    model: Path, two_devices: str, tmp_path: Path, openvino_is_wrong: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VerificationFailed, match=r"'r5' is off by 3.*--tolerance or --no-verify"):
        trisect.split(model, "cpu:openvino", shapes={"batch": 2}, out=tmp_path / "plan")
    words = ["split", str(model), "--devices", "cpu:openvino", "--shape", "batch=2", "-o", str(tmp_path / "plan")]
    assert main(words) == 1
    assert "computes something else on cpu:openvino" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*words, "--no-verify"]) == 0


def test_a_tolerance_is_a_number(model: Path, two_devices: str) -> None:
    with pytest.raises(InvalidInput, match="the tolerance is nan"):
        trisect.split(model, two_devices, shapes={"batch": 2}, tolerance=float("nan"))
