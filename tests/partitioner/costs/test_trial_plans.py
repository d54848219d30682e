"""Plans made to be measured compute what the model does, and have the cost terms of each of their segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from trisect.partitioner.costs.trial_plans import TrialModel
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.measuring.plan_trial import run_trial
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime import engines
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.sessions.session import Session

DEVICES = engines.find_devices("cpu:ort,cpu:openvino")


def made(folder: Path, seed: int) -> TrialModel:
    path = folder / "m.onnx"
    path.write_bytes(synthetic_network(seed))
    return TrialModel(Graph.read(path), DEVICES)


def test_a_random_cut_computes_the_same(tmp_path: Path) -> None:
    model = made(tmp_path, 1)
    result = model.random("a", 6, tmp_path / "cut")
    feeds = plan_feeds(result.plan)
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, feeds)
    with Session(result.plan) as session:
        got = list(session.run(feeds).values())
    assert len(result.plan.segments) > 1
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_cost_terms_of_the_segments_cover_all_operations(tmp_path: Path) -> None:
    model = made(tmp_path, 0)
    whole = model.whole(DEVICES[0], tmp_path / "whole")
    cut = model.random("b", 4, tmp_path / "cut")
    assert len(cut.terms) == len(cut.plan.segments)
    for part in (whole, cut):
        assert sum(term.flops for terms in part.terms for term in terms) >= 0.99 * model.flops
    assert all(terms[-1].kind == "call" for terms in cut.terms)


def test_the_same_seed_cuts_the_same_way(tmp_path: Path) -> None:
    model = made(tmp_path, 3)
    first, again, other = (model.random(s, 6, tmp_path / f"{i}") for i, s in enumerate("aab"))
    assert first.plan.placement == again.plan.placement
    assert first.terms == again.terms
    assert first.plan.placement != other.plan.placement


def test_a_trial_times_every_segment(tmp_path: Path) -> None:
    result = made(tmp_path, 4).random("c", 3, tmp_path / "cut")
    trial = run_trial(result.plan, plan_feeds(result.plan), duration_s=0.01, min_runs=3, max_runs=5)
    assert len(trial.segments_s) == len(result.plan.segments)
    assert 3 <= trial.runs <= 5
    assert 0 < max(trial.segments_s) < trial.latency_s
