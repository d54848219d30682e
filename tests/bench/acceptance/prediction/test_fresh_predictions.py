"""The figures of first splits count plans that are cut, and how many measurements their intervals contain."""

from __future__ import annotations

import pytest

from trisect.bench.acceptance.prediction.fresh_predictions import FreshModel, FreshRun, summarise_fresh


def run(strategy: str, predicted_s: float, measured_s: float, again_s: float, width: float = 1.1) -> FreshRun:
    return FreshRun(strategy, 2, predicted_s, (predicted_s / width, predicted_s * width), measured_s, again_s)


def test_devices_alone_do_not_count() -> None:
    runs = (run("cpu:ort", 9.0, 1.0, 1.0), run("heft", 1.0, 1.25, 1.25), run("mincut", 2.0, 2.0, 2.0))
    result = summarise_fresh([FreshModel("m", runs)], {})
    assert (result.plans, result.coverage) == (2, 0.5)
    assert result.median_abs_error == pytest.approx(0.1)
    assert result.kendall_tau == 1.0


def test_equal_predictions_of_different_plans_rank_nothing() -> None:
    runs = (run("heft", 1.0, 1.0, 1.0), run("mincut", 1.0, 2.0, 2.0), run("dp-chain", 3.0, 4.0, 4.0))
    assert summarise_fresh([FreshModel("m", runs)], {}).kendall_tau == pytest.approx(2 / 3)
