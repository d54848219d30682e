"""Processes that run plans in turns time every plan, and one that fails is reported in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trisect.bench.acceptance.prediction.measurement_rounds import measure_in_turns, median_trial
from trisect.partitioner.costs.trial_plans import TrialModel
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime import engines
from trisect.runtime.errors import EngineFailed

DEVICES = engines.find_devices("cpu:ort,cpu:openvino")


def test_each_process_runs_every_plan_in_each_round(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(synthetic_network(8))
    model = TrialModel(Graph.read(path), DEVICES)
    plans = [model.whole(DEVICES[0], tmp_path / "whole").plan, model.random("a", 3, tmp_path / "cut").plan]
    turns = list(measure_in_turns(plans, processes=2, rounds=2))
    assert [[len(trials) for trials in turn] for turn in turns] == [[2, 2], [2, 2]]
    for turn in turns:
        for trials in turn:
            for plan, trial in zip(plans, trials, strict=True):
                assert len(trial.segments_s) == len(plan.segments)
                assert 0 < max(trial.segments_s) < trial.latency_s
    (tmp_path / "cut" / plans[1].segments[0].file).write_bytes(b"damaged")
    with pytest.raises(EngineFailed, match=r"^the splits did not run: .*; leave the model out with --models$"):
        next(iter(measure_in_turns(plans, processes=1, rounds=1)))


def test_the_middle_of_trials_is_taken_segment_by_segment() -> None:
    trials = [
        PlanTiming(10.0, 0.1, (1.0, 9.0), (0.1, 0.2), 5, 0.0),
        PlanTiming(12.0, 0.1, (3.0, 7.0), (0.1, 0.2), 5, 0.5),
    ]
    trials.append(replace(trials[0], latency_s=30.0, segments_s=(2.0, 20.0)))
    result = median_trial(trials)
    assert (result.latency_s, result.segments_s, result.runs) == (12.0, (2.0, 9.0), 15)
    assert result.other_load == 0.0
