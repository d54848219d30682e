"""Refinement finds the fastest plan where measured times differ from the costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.partitioner.costs.isolated_measurement import PlanRuns
from trisect.partitioner.planning import refinement as refining
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.plan import Plan


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_models.mlp(tmp_path / "m.onnx", layers=4)


def world(node_s: Callable[[str], float], call_s: float = 1e-5) -> Callable[[Plan], PlanRuns]:
    """Runs plans by rule: each node takes what its device takes, each segment a call."""

    def run(plan: Plan) -> PlanRuns:
        segments = tuple(call_s + node_s(s.device) * len(s.nodes) for s in plan.segments)
        timing = PlanTiming(sum(segments) + 1e-6, 0.0, segments, (0.0,) * len(segments), 1, None)
        return PlanRuns(timing, timing.latency_s)

    return run


def test_a_device_that_is_slower_than_its_costs_say_loses_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small_models.split(model, [CPU, GPU], FakeCosts(), shapes={"batch": 3}, out_folder=tmp_path / "before")
    (favourite,) = {segment.device for segment in before.segments}
    other = next(d.id for d in (CPU, GPU) if d.id != favourite)
    monkeypatch.setattr(refining, "measure_plan", world(lambda device: 1e-3 if device == favourite else 1e-4))
    recorded: list[MeasuredSegment] = []
    plan = small_models.split(
        model, [CPU, GPU], FakeCosts(), shapes={"batch": 3}, out_folder=tmp_path / "plan", refine=4,
        record=lambda measured: recorded.extend(row for rows in measured.values() for row in rows),
    )  # fmt: skip
    assert {segment.device for segment in plan.segments} == {other}
    assert plan.notes[-1].startswith("the quickest of 2 plans that ran: latency 1.21 ms, measured")
    assert Plan.load(tmp_path / "plan").placement == plan.placement
    assert [len(recorded), recorded[0].origin] == [2, "plan"]
    assert not list(tmp_path.glob("trisect-refine-*"))


def test_a_plan_that_gets_slower_is_discarded(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = small_models.split(model, [CPU, GPU], FakeCosts(), shapes={"batch": 3}, out_folder=tmp_path / "before")
    (favourite,) = {segment.device for segment in before.segments}
    # Both are far slower than their costs, the other one even more: it seems better only until it has run.
    monkeypatch.setattr(refining, "measure_plan", world(lambda device: 1e-3 if device == favourite else 2e-3))
    plan = small_models.split(
        model, [CPU, GPU], FakeCosts(), shapes={"batch": 3}, out_folder=tmp_path / "plan", refine=4
    )  # fmt: skip
    assert plan.placement == before.placement
    assert "of 2 plans" in plan.notes[-1]  # each device alone; the third, which the costs then favour, is one of these


def test_each_device_alone_is_measured_for_the_default_strategy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calls are expensive, which the costs do not contain: `auto` finds a plan of one segment, a fixed strategy does
    # not.
    monkeypatch.setattr(refining, "measure_plan", world(lambda device: 1e-5, call_s=1.0))
    arguments = {"shapes": {"batch": 3}, "out_folder": tmp_path / "plan", "refine": 1}
    cut = small_models.split(model, [CPU, GPU], FakeCosts(), "test-blocks:3", **arguments)  # type: ignore[arg-type]
    assert len(cut.segments) > 1
    whole = small_models.split(model, [CPU, GPU], FakeCosts(), "auto", **arguments)  # type: ignore[arg-type]
    assert len(whole.segments) == 1


def test_what_no_run_shows_is_refused(model: Path, tmp_path: Path) -> None:
    arguments = {"shapes": {"batch": 3}, "out_folder": tmp_path / "plan", "refine": 1}
    with pytest.raises(InvalidInput, match="running a plan does not measure its memory; refine for latency"):
        small_models.split(model, [CPU, GPU], FakeCosts(), objective="memory", **arguments)  # type: ignore[arg-type]
    far = Device("npu:far", "npu", "far", "", reality="published")
    with pytest.raises(InvalidInput, match="npu:far cannot be run from here"):
        small_models.split(model, [CPU, far], FakeCosts(), **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "plan").exists()
