"""A few cuts of the model correct the cost models, and are measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from math import log, sqrt
from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.partitioner.costs import cut_measurement
from trisect.partitioner.costs.cut_measurement import with_measured_cuts
from trisect.partitioner.costs.model_costs import segment_terms_of
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.problem_builder import PACE_DEVIATION, ProblemInputs
from trisect.partitioner.problem.task_grouping import merged_tasks
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.regression import Regression
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan

from .test_plan_prediction import ModelledCosts

DEVICES = tuple(find_devices("cpu:ort,cpu:openvino"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProblemInputs:
    graph = Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=4), {"batch": 3})
    whole = segment_terms_of(graph, list(graph.nodes))
    known = MeasuredSegment(whole, 1e-3, 0.0, "plan")
    monkeypatch.setattr(cut_measurement, "_BUDGET_S", 1e9)
    monkeypatch.setattr(cut_measurement, "_CUTS", 4)
    monkeypatch.setattr(cut_measurement, "_FEW_CUTS", 2)
    models = {device.id: DeviceModel(Regression()).refined([known]) for device in DEVICES}
    return small_models.inputs_of(graph, DEVICES, ModelledCosts(fitted=models))


def took(monkeypatch: pytest.MonkeyPatch, whole_s: float, segment_s: float = 5e-4) -> list[Plan]:
    ran: list[Plan] = []

    def measure(plan: Plan, _: float) -> tuple[float, ...]:
        ran.append(plan)
        return (whole_s,) if len(plan.segments) == 1 else (segment_s,) * len(plan.segments)

    monkeypatch.setattr(cut_measurement, "measure_segments", measure)
    return ran


def rows(inputs: ProblemInputs) -> Mapping[str, int]:
    return {key: len(model.rows) for key, model in inputs.costs.models.items()}


def test_cuts_and_the_whole_model_again_are_measured_once(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = took(monkeypatch, 1e-3)
    known = with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW)
    assert len(ran) == 4 + len(DEVICES)
    assert all(count > 2 for count in rows(known).values())
    again = with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW)
    assert len(ran) == 4 + len(DEVICES)
    assert rows(again) == rows(known)
    with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW.replace(year=2027))
    assert len(ran) == 2 * (4 + len(DEVICES))  # too old


def test_less_is_measured_before_plans_run(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = took(monkeypatch, 1e-3)
    with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW, are_few=True)
    assert [len(plan.segments) > 1 for plan in ran] == [True, True]


def test_nodes_that_an_engine_computes_together_are_not_cut_apart(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(inputs.graph.nodes)
    tasks, refused = merged_tasks(inputs.graph, inputs.tasks, {}, [tuple(names[:8])], {})
    ran = took(monkeypatch, 1e-3)
    with_measured_cuts(replace(inputs, tasks=tasks, refused=refused), tmp_path / "cuts.json", now=NOW)
    assert ran
    assert all(set(names[:8]) <= set(plan.segments[0].nodes) for plan in ran)


def test_a_machine_that_is_not_steady_widens_intervals(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took(monkeypatch, 1e-3)
    steady = with_measured_cuts(inputs, tmp_path / "steady.json", now=NOW)
    assert steady.pace_deviation == pytest.approx(PACE_DEVIATION / sqrt(2))
    took(monkeypatch, 1.5e-3)
    unsteady = with_measured_cuts(inputs, tmp_path / "unsteady.json", now=NOW)
    assert unsteady.pace_deviation == pytest.approx(sqrt((2 * PACE_DEVIATION**2 + log(1.5) ** 2) / 4))


def test_times_are_scaled_by_what_a_device_has_become_slower(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took(monkeypatch, 1e-3)
    probes_s = {device.id: 1e-3 for device in DEVICES}
    before = with_measured_cuts(inputs, tmp_path / "cuts.json", probes_s=probes_s, now=NOW)
    slower = {key: 1.25 * time_s for key, time_s in probes_s.items()}
    after = with_measured_cuts(inputs, tmp_path / "cuts.json", probes_s=slower, now=NOW)
    for key, model in before.costs.models.items():
        expected = [row.time_s * 1.25 for row in model.rows[1:]]
        assert [row.time_s for row in after.costs.models[key].rows[1:]] == pytest.approx(expected)


def test_a_cut_that_cannot_run_is_left_out(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> tuple[float, ...]:
        raise EngineFailed("segment 0: out of memory")

    monkeypatch.setattr(cut_measurement, "measure_segments", fail)
    known = with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW)
    assert rows(known) == rows(inputs)
    (tmp_path / "cuts.json").write_bytes(b"{damaged")
    assert rows(with_measured_cuts(inputs, tmp_path / "cuts.json", now=NOW)) == rows(inputs)


def test_one_device_or_none_with_a_cost_model_needs_no_cuts(
    inputs: ProblemInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = took(monkeypatch, 1e-3)
    alone = small_models.inputs_of(inputs.graph, DEVICES[:1], inputs.costs)
    assert with_measured_cuts(alone, tmp_path / "cuts.json") is alone
    assert not ran
