"""The measurement of planning, and the model that it plans."""

from __future__ import annotations

import onnx

from trisect.bench.acceptance.plan_speed import STRATEGIES, bench_plan_speed, layered_model


def test_the_layered_model_is_valid_and_reproducible() -> None:
    with layered_model(50) as path, layered_model(50) as again, layered_model(50, seed=1) as other:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == 50
        assert path.read_bytes() == again.read_bytes() != other.read_bytes()


def test_each_strategy_is_timed_on_each_model() -> None:
    runs = bench_plan_speed([20, 40], rounds=1)
    assert [(run.nodes, run.strategy) for run in runs] == [(n, name) for n in (20, 40) for name in STRATEGIES]
    for run in runs:
        assert run.total_s == run.problem_s + run.place_s
        assert run.met == (run.total_s <= run.bar_s and run.read_s <= run.read_bar_s)
