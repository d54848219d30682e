"""What commands print of a plan: certificate, segments, and a run beside its prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trisect.cli.plan_tables import certificate, comparison_lines, outside_interval, run_table, segment_table
from trisect.measured_runs import MeasuredTimes
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_comparison import ComparedTime, PlanComparison
from trisect.runtime.plans.timeline import Event, Timeline

EVENTS = [
    Event("segment 0", "compute", "cpu:ort", 0.0, 0.002),
    Event("segment 1", "compute", "cpu:openvino", 0.002, 0.005),
    Event("segment 2", "compute", "cpu:ort", 0.005, 0.006),
    Event("segment 1", "compute", "cpu:openvino", 0.010, 0.019, item=1),
]


@pytest.fixture
def plan(plan_folder: Path) -> Plan:
    predicted = Timeline.of(EVENTS, "predicted", latency_s=0.005)
    loaded = Plan.load(plan_folder)
    return replace(
        loaded, predicted=predicted, value=0.005, bound=0.004, bound_by="CP-SAT", objective="latency", interval=None
    )


def with_intervals(plan: Plan) -> Plan:
    segments_s = {"segment 0": (0.001, 0.003), "segment 1": (0.0029, 0.004)}
    predicted = replace(plan.predicted, latency_interval_s=(0.004, 0.006), segment_intervals_s=segments_s)
    return replace(plan, predicted=predicted, interval=(0.004, 0.006))


MEASURED = MeasuredTimes(10, 0.0062, (0.006, 0.007), {"segment 0": 0.003, "segment 1": 0.0041})


def test_the_certificate_states_value_interval_bound_and_gap(plan: Plan) -> None:
    assert certificate(plan) == "predicted latency 5 ms; lower bound 4 ms (CP-SAT), gap 25.0%"
    assert certificate(with_intervals(plan)).startswith("predicted latency 5 ms, 90 %: 4-6 ms; lower bound 4 ms")
    stream = replace(with_intervals(plan), objective="throughput")
    assert certificate(stream) == (
        "predicted throughput 200 items/s, 90 %: 167-250 items/s; upper bound 250 items/s (CP-SAT), gap 25.0%"
    )
    assert certificate(replace(plan, bound=0.0)) == "predicted latency 5 ms; no bound is known"
    energy = replace(plan, objective="energy", interval=(0.004, 0.5), bound_by="")
    assert certificate(energy) == "predicted energy 5 mJ, 90 %: 4-500 mJ; lower bound 4 mJ, gap 25.0%"


def test_what_splitting_gains_is_shown_with_intervals_of_what_is_predicted(plan: Plan) -> None:
    alone = (
        ComparedTime("cpu:ort alone", 0.01, "predicted", (0.008, 0.012)),
        ComparedTime("cpu:openvino alone", 0.012, "measured"),
    )
    comparison = PlanComparison(alone, ComparedTime("this split", 0.006, "measured"), noise=0.02, splits_run=3)
    assert comparison_lines(replace(plan, comparison=comparison)) == [
        "cpu:ort alone: 10 ms, 90 %: 8-12 ms, predicted",
        "cpu:openvino alone: 12 ms, measured",
        "this split: 6 ms, measured",
        comparison.summary,
    ]
    assert comparison_lines(replace(plan, comparison=None)) == []


def test_segments_are_shown_with_the_tensors_at_their_boundaries(plan: Plan) -> None:
    columns, rows = segment_table(plan)
    assert [row[:2] for row in rows] == [(str(s.index), s.device) for s in plan.segments]
    assert rows[0][columns.index("outputs")] == rows[1][columns.index("inputs")] == f"1, {3 * 16 * 4} B: r1"
    assert segment_table(replace(plan, transfers=()))[1][0][-1] == "-"


def test_a_run_is_shown_beside_its_prediction_and_what_is_outside_its_interval_is_marked(plan: Plan) -> None:
    columns, rows = run_table(with_intervals(plan), MEASURED)
    assert rows == [
        ("segment 0", plan.segments[0].device, "3 ms", "2 ms", "1-3 ms", ""),
        ("segment 1", plan.segments[1].device, "4.1 ms", "3 ms", "2.9-4 ms", "outside"),
        ("segment 2", plan.segments[2].device, "-", "1 ms", "-", ""),
        ("total", "", "6.2 ms", "5 ms", "4-6 ms", "outside"),
    ]
    assert len(columns) == 6
    assert outside_interval(with_intervals(plan), MEASURED) == ["segment 1", "total"]
    assert outside_interval(with_intervals(plan), replace(MEASURED, latency_s=0.004, segments_s={})) == []


def test_without_intervals_nothing_is_outside(plan: Plan) -> None:
    assert outside_interval(plan, MEASURED) is None
    assert [row[4:] for row in run_table(plan, MEASURED)[1]] == [("-", "")] * 4
