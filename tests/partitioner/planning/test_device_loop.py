"""Candidates that run on the devices: the fastest measured plan is chosen, whatever was predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.partitioner.planning import measured_planning
from trisect.partitioner.planning.contender_runs import FirstRuns, Round
from trisect.partitioner.planning.final_turns import TimeBudget
from trisect.partitioner.planning.measured_planning import SplitInterrupted
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.runtime.engines.null import null_devices
from trisect.runtime.errors import EngineFailed, InvalidInput
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment

SHAPES = {"batch": 3}


class World:
    """Runs plans by rule instead of on engines: each segment takes a call and what its nodes take there."""

    def __init__(self, node_s: Callable[[str, int], float], call_s: float = 1e-5) -> None:
        self.node_s, self.call_s = node_s, call_s
        self.ran: list[Plan] = []
        self.before_run: Callable[[Plan], None] = lambda plan: None
        self.in_turns_fails: Callable[[Plan], bool] = lambda plan: False
        self.closed = 0
        self.now_s = 0.0
        self.is_disturbed = False

    def segment_s(self, segment: Segment, position: dict[str, int]) -> float:
        return self.call_s + sum(self.node_s(segment.device, position[node]) for node in segment.nodes)

    def timing(self, plan: Plan) -> PlanTiming:
        position = {node: number for number, node in enumerate(plan.placement)}
        times_s = tuple(self.segment_s(segment, position) for segment in plan.segments)
        return PlanTiming(sum(times_s), 0.0, times_s, (0.0,) * len(times_s), 1, None)

    def first(self, plan: Plan, **_: float) -> FirstRuns:
        self.before_run(plan)
        self.ran.append(plan)
        timing = self.timing(plan)
        self.now_s += timing.latency_s
        return FirstRuns(timing, timing.latency_s)

    def in_turns(self, plans: Sequence[Plan], *, rounds: int, **_: float) -> list[Round]:
        row = [None if self.in_turns_fails(plan) else self.timing(plan).latency_s for plan in plans]
        return [Round(row, self.is_disturbed)] * rounds

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_models.mlp(tmp_path / "m.onnx", layers=4)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Devices of equal speed, unless a test changes it."""
    world = World(lambda device, position: 1e-4)
    monkeypatch.setattr(measured_planning, "ContenderRuns", lambda: world)
    monkeypatch.setattr(measured_planning, "TimeBudget", partial(TimeBudget, clock=lambda: world.now_s))
    return world


def split(model: Path, out: Path, devices: Sequence[Device] = (CPU, GPU), strategy: str = "auto", **more) -> Plan:
    if strategy == "auto":
        more.setdefault("measure", True)
    return small_models.split(model, devices, FakeCosts(), strategy, shapes=SHAPES, out_folder=out, **more)


def devices_of(plan: Plan) -> set[str]:
    return {segment.device for segment in plan.segments}


def test_a_device_that_is_slower_than_its_costs_say_loses_the_work(model: Path, tmp_path: Path, world: World) -> None:
    (favourite,) = devices_of(split(model, tmp_path / "predicted", measure=False))
    other = next(d.id for d in (CPU, GPU) if d.id != favourite)
    world.node_s = lambda device, position: 1e-3 if device == favourite else 1e-4
    recorded: list[MeasuredSegment] = []
    plan = split(
        model, tmp_path / "plan", record=lambda measured: recorded.extend(r for rows in measured.values() for r in rows)
    )
    assert devices_of(plan) == {other}
    assert Plan.load(tmp_path / "plan") == plan
    assert len(recorded) == sum(len(ran.segments) for ran in world.ran)
    assert {row.origin for row in recorded} == {"plan"}
    assert plan.comparison is not None
    assert {row.what: row.seconds for row in plan.comparison.alone} == {
        f"{favourite} alone": pytest.approx(12 * 1e-3 + 1e-5),
        f"{other} alone": pytest.approx(12 * 1e-4 + 1e-5),
    }
    assert {row.source for row in plan.comparison.rows} == {"measured"}
    assert plan.comparison.summary.startswith("splitting does not pay here: ")
    assert world.closed == 1
    assert not list(tmp_path.glob("trisect-loop-*"))


def test_a_split_that_is_measured_to_be_faster_is_chosen(model: Path, tmp_path: Path, world: World) -> None:
    # Either device is ten times as fast in its half of the model, which the costs do not contain.
    world.node_s = lambda device, position: 1e-4 if (device == CPU.id) == (position < 6) else 1e-3
    plan = split(model, tmp_path / "plan")
    assert devices_of(plan) == {CPU.id, GPU.id}
    measured_s = {id(ran): world.timing(ran).latency_s for ran in world.ran}
    assert plan.comparison is not None
    assert plan.comparison.plan.seconds == pytest.approx(min(measured_s.values()))
    # The best possible: one cut in the middle.
    assert plan.comparison.plan.seconds == pytest.approx(12 * 1e-4 + 2e-5)
    assert plan.comparison.gain == pytest.approx((6 * 1e-3 + 6 * 1e-4 + 1e-5) / (12 * 1e-4 + 2e-5) - 1)
    assert plan.comparison.summary.startswith("this split is 441.8% faster than cpu:one alone, measured")
    assert plan.comparison.splits_run == len(world.ran) - 2


def test_a_split_within_the_noise_is_not_worth_it(model: Path, tmp_path: Path, world: World) -> None:
    world.call_s = 0.0
    world.node_s = lambda device, position: 1e-4 if device == CPU.id or position != 5 else 0.99e-4
    plan = split(model, tmp_path / "plan")
    assert len(plan.segments) == 1


def test_candidates_that_fail_are_left_out_with_a_note(model: Path, tmp_path: Path, world: World) -> None:
    def refuse(plan: Plan) -> None:
        if len(plan.segments) > 1:
            error = EngineFailed("segment 1: no", reason="it is out of order")
            error.segment = 1
            raise error

    world.before_run = refuse
    plan = split(model, tmp_path / "plan")
    assert len(plan.segments) == 1
    assert any("is left out: it is out of order" in note for note in plan.notes)


def test_a_device_that_fails_alone_is_left_out(model: Path, tmp_path: Path, world: World) -> None:
    def vanish(plan: Plan) -> None:
        if devices_of(plan) == {CPU.id}:
            raise ChildProcessFailed("the process", "its process ended (SIGSEGV)")

    world.before_run = vanish
    plan = split(model, tmp_path / "plan")
    assert "cpu:one alone is left out: its process ended (SIGSEGV)" in plan.notes
    assert [row.source for row in plan.comparison.alone] == ["predicted", "measured"]  # type: ignore[union-attr]


def test_a_plan_that_fails_in_turns_is_not_chosen(model: Path, tmp_path: Path, world: World) -> None:
    world.node_s = lambda device, position: 1e-4 if device == CPU.id else 1.05e-4
    world.in_turns_fails = lambda plan: devices_of(plan) == {CPU.id}
    plan = split(model, tmp_path / "plan")
    assert devices_of(plan) == {GPU.id}
    assert "cpu:one alone is left out: it ran at first, and failed later" in plan.notes


def test_other_processes_are_noted(model: Path, tmp_path: Path, world: World) -> None:
    world.node_s = lambda device, position: 1e-4 if device == CPU.id else 1.05e-4
    world.is_disturbed = True
    plan = split(model, tmp_path / "plan")
    assert devices_of(plan) == {CPU.id}
    assert "other processes used the processor while plans ran, so that their times may be wrong" in plan.notes


def test_nothing_that_runs_leaves_the_predicted_plan(model: Path, tmp_path: Path, world: World) -> None:
    def fail(plan: Plan) -> None:
        raise EngineFailed("nothing runs", reason="it hangs")

    world.before_run = fail
    plan = split(model, tmp_path / "plan")
    assert plan.placement == split(model, tmp_path / "predicted", measure=False).placement
    assert plan.comparison is not None
    assert {row.source for row in plan.comparison.rows} == {"predicted"}
    assert "cpu:one alone is left out: it hangs" in plan.notes


def test_a_budget_that_is_too_small_says_what_did_not_run(model: Path, tmp_path: Path, world: World) -> None:
    plan = split(model, tmp_path / "plan", budget_s=1e-3)
    assert len(world.ran) < 3
    assert "the time budget of 0.001 s was over when 0 splits had run: more time may find a faster one" in plan.notes
    none = split(model, tmp_path / "none", budget_s=1e-9)
    assert none.notes[0].startswith("plans were not run: loading and running one takes about ")


def test_an_interrupt_keeps_the_best_so_far(model: Path, tmp_path: Path, world: World) -> None:
    def interrupt(plan: Plan) -> None:
        if len(world.ran) == 1:
            raise KeyboardInterrupt

    world.before_run = interrupt
    cache = tmp_path / "whole-models.json"
    with pytest.raises(SplitInterrupted) as caught:
        split(model, tmp_path / "plan", calibrations=cache)
    assert Plan.load(tmp_path / "plan").segments == caught.value.plan.segments == world.ran[0].segments
    assert caught.value.plan.notes[-2:] == (
        "interrupted after 1 plans ran",
        f"chosen of 1 plans that ran: latency {12 * 0.1 + 0.01:.3g} ms, measured",
    )
    world.ran.clear()
    world.before_run = lambda plan: None
    split(model, tmp_path / "plan", calibrations=cache)
    assert world.ran  # an interrupted loop is not cached


def test_an_interrupt_before_any_run_ends_the_split(model: Path, tmp_path: Path, world: World) -> None:
    def interrupt(plan: Plan) -> None:
        raise KeyboardInterrupt

    world.before_run = interrupt
    with pytest.raises(KeyboardInterrupt) as caught:
        split(model, tmp_path / "plan")
    assert not isinstance(caught.value, SplitInterrupted)
    assert not (tmp_path / "plan").exists()
    assert world.closed == 1


def test_the_same_request_gives_the_same_bytes_without_running(model: Path, tmp_path: Path, world: World) -> None:
    cache = tmp_path / "whole-models.json"
    first = split(model, tmp_path / "first", calibrations=cache)
    count = len(world.ran)
    world.node_s = lambda device, position: 1e-3 * (1 + (device == devices_of(first).pop()))
    again = split(model, tmp_path / "again", calibrations=cache, budget_s=1.0)
    assert len(world.ran) == count
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert again.comparison == first.comparison
    split(model, tmp_path / "longer", calibrations=cache, budget_s=1000.0)
    assert len(world.ran) > count
    for path in (tmp_path / "measured-plans").iterdir():
        path.write_text("{")
    world.ran.clear()
    split(model, tmp_path / "damaged", calibrations=cache)
    assert world.ran


def test_an_explicit_strategy_runs_only_with_refinement(model: Path, tmp_path: Path, world: World) -> None:
    # Calls are expensive, which the costs do not contain: `auto` finds a plan of one segment, a fixed strategy does
    # not.
    world.node_s, world.call_s = (lambda device, position: 1e-5), 1.0
    assert split(model, tmp_path / "a", strategy="test-blocks:3", measure=True).comparison.plan.source == "predicted"  # type: ignore[union-attr]
    assert not world.ran
    refined = split(model, tmp_path / "b", strategy="test-blocks:3", measure=True, refine=1)
    assert len(refined.segments) > 1
    assert refined.comparison.plan.source == "measured"  # type: ignore[union-attr]
    assert len(split(model, tmp_path / "c", refine=1).segments) == 1


def test_what_no_run_shows_is_only_predicted(model: Path, tmp_path: Path, world: World) -> None:
    out = tmp_path / "plan"
    far = Device("npu:far", "npu", "far", "", reality="published")
    for more in ({"objective": "memory"}, {"devices": (CPU, far)}, {"devices": (CPU, *null_devices("npu", 1))}):
        assert split(model, out, **more).notes == ()  # type: ignore[arg-type]
    assert not world.ran
    for more, message in (
        ({"objective": "memory", "refine": 1}, "running a plan does not measure its memory"),
        ({"devices": (CPU, far), "budget_s": 9.0}, "npu:far cannot be run from here"),
        ({"devices": (CPU, *null_devices("npu", 1)), "budget_s": 9.0}, "npu:null computes nothing"),
        ({"measure": False, "budget_s": 9.0}, "plans are not run, so that there is nothing to refine"),
        ({"strategy": "heft", "budget_s": 9.0}, "the strategy 'heft' runs no plans"),
        ({"budget_s": 0.0}, "invalid time budget 0.0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            split(model, tmp_path / "none", **more)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()
