"""Wake-up costs are predicted for each segment of a plan, and subtracted from measured segments."""

from __future__ import annotations

import pytest

from trisect.profiles.costmodel.call_costs import CallCosts, plan_latency_s
from trisect.profiles.stored.segment_store import MeasuredSegment

WARM = MeasuredSegment((), 1e-4, 0.0)
CALLS = CallCosts({"a": WARM, "b": WARM}, {"a": [(1e-3, 2e-4)], "b": [(1e-3, 5e-4)]}, session_s=1e-5, handover_s=2e-5)


def test_the_wake_up_cost_depends_on_how_long_others_computed() -> None:
    # In a loop, the last segment is followed by the first.
    assert CALLS.wakeup_costs.extra_s([("a", 5e-4), ("b", 1e-3), ("a", 5e-4)]) == pytest.approx([0.0, 4e-4, 1e-4])


def test_a_single_device_has_no_wake_up_cost() -> None:
    assert CALLS.wakeup_costs.extra_s([("a", 1e-3), ("a", 2e-3)]) == [0.0, 0.0]


def test_a_plans_time_is_its_segments_wake_up_costs_and_hand_overs() -> None:
    parts = [("a", 1e-3), ("b", 1e-3)]
    assert plan_latency_s(parts, CALLS) == pytest.approx(2e-3 + sum(CALLS.wakeup_costs.extra_s(parts)) + 3e-5)
