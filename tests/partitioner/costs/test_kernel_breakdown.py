"""Kernels of a running model become measured cost terms, whose times sum up to those of its segments."""

from __future__ import annotations

from pathlib import Path

import pytest

from trisect.partitioner.costs.kernel_breakdown import kernel_rows, kernel_segments, measure_calls, plan_kernels
from trisect.partitioner.costs.trial_plans import TrialModel
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.measuring.plan_trial import run_trial
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime import engines
from trisect.runtime.engines.common.kernels import Kernel
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan_feeds import plan_feeds

DEVICES = engines.find_devices("cpu:ort,cpu:openvino")


@pytest.fixture
def model(tmp_path: Path) -> TrialModel:
    path = tmp_path / "m.onnx"
    path.write_bytes(synthetic_network(3))
    return TrialModel(Graph.read(path), DEVICES)


def test_changes_of_layout_are_measured_apart_where_the_engine_tells_them_apart() -> None:
    conv, enter, relu = CostTerm("conv dense"), CostTerm("layout in"), CostTerm("elementwise behind")
    terms = {"c": [enter, conv], "r": [relu], "s": []}
    apart = kernel_rows([Kernel(("c", "r"), 3.0, 1.0)], terms, "plan")
    assert [(row.terms, row.time_s) for row in apart] == [((enter,), 1.0), ((conv, relu), 3.0)]
    joined = kernel_rows([Kernel(("c", "r"), 4.0)], terms, "plan")
    assert [(row.terms, row.time_s) for row in joined] == [((enter, conv, relu), 4.0)]
    assert all(row.is_kernel for row in apart + joined)
    assert kernel_rows([Kernel(("s",), 1.0)], terms, "plan") == []


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.id)
def test_kernels_take_as_long_as_the_segment_without_its_call(model: TrialModel, tmp_path: Path, device) -> None:
    whole = model.whole(device, tmp_path / "whole")
    trial = run_trial(whole.plan, plan_feeds(whole.plan), duration_s=0.02, min_runs=3, max_runs=10)
    rows = kernel_segments(model, whole, trial, {device.id: trial.segments_s[0] / 4}, 0.02)
    assert {where for where, _ in rows} == {device.id}
    assert sum(row.time_s for _, row in rows) == pytest.approx(trial.segments_s[0] * 3 / 4, rel=0.05)
    kernel_terms = [term for _, row in rows for term in row.terms]
    inside = [term for term in whole.terms[0] if term.kind not in ("border", "call")]
    assert sorted(map(repr, kernel_terms)) == sorted(map(repr, inside))


def test_an_engine_whose_profiler_fails_gives_no_kernels(
    model: TrialModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.whole(DEVICES[0], tmp_path / "whole")
    trial = run_trial(whole.plan, plan_feeds(whole.plan), duration_s=0.01, min_runs=2, max_runs=2)
    engine = engines.engine_for(DEVICES[0])

    def fail(*_: object) -> None:
        raise EngineFailed("no profiler here")

    monkeypatch.setattr(type(engine), "kernels", fail)
    assert plan_kernels(whole.plan, trial, {}) == []
    assert kernel_segments(model, whole, trial, {}) == []


def test_calls_are_measured_warm_and_after_others() -> None:
    calls = measure_calls(DEVICES)
    ids = {device.id for device in DEVICES}
    assert set(calls.warm) == set(calls.cold_s) == ids
    assert calls.session_s > 0
    assert calls.handover_s >= 0
    for row in calls.warm.values():
        assert not row.is_kernel
        assert [term.kind for term in row.terms] == ["elementwise", "elementwise", "border", "border", "call"]
        assert 0 < row.time_s < 0.1
    for points in calls.cold_s.values():
        assert len(points) == 3
        assert [wait for wait, _ in points] == sorted(wait for wait, _ in points)
