"""A request is checked when it is made, before anything is read or measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.partitioner.small_models import CPU
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.partitioner.strategies import TIME_LIMIT_S
from trisect.runtime.errors import InfeasibleProblem, InvalidInput

MODEL = Path("model.onnx")


def test_the_search_time_is_the_time_limit_or_the_default() -> None:
    assert PlanRequest(MODEL, (CPU,)).search_time_s == TIME_LIMIT_S
    assert PlanRequest(MODEL, (CPU,), time_limit_s=0.5).search_time_s == 0.5


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_limit_is_positive_and_finite(limit: float) -> None:
    with pytest.raises(InvalidInput, match=rf"invalid time limit {limit} s: expected a positive number of seconds"):
        PlanRequest(MODEL, (CPU,), time_limit_s=limit)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(InfeasibleProblem, match="unknown objective 'beauty'; choose one of latency, throughput"):
        PlanRequest(MODEL, (CPU,), objective="beauty")  # type: ignore[arg-type]
