"""What an engine's call costs behind others: told for each segment of a plan, and taken off what was measured there."""

from __future__ import annotations

import pytest

from trisect.profiles.costmodel.call_costs import Calls, plan_time_s
from trisect.profiles.stored.segment_store import MeasuredSegment

AWAKE = MeasuredSegment((), 1e-4, 0.0)
CALLS = Calls({"a": AWAKE, "b": AWAKE}, {"a": [(1e-3, 2e-4)], "b": [(1e-3, 5e-4)]}, start_s=1e-5, hop_s=2e-5)


def test_a_segment_wakes_as_late_as_others_computed_before_it() -> None:
    # In a loop, what comes behind the last segment is the first again.
    assert CALLS.wakings.of_parts([("a", 5e-4), ("b", 1e-3), ("a", 5e-4)]) == pytest.approx([0.0, 4e-4, 1e-4])


def test_a_device_on_its_own_never_sleeps() -> None:
    assert CALLS.wakings.of_parts([("a", 1e-3), ("a", 2e-3)]) == [0.0, 0.0]


def test_a_plan_takes_its_segments_their_wakings_and_the_hand_overs() -> None:
    parts = [("a", 1e-3), ("b", 1e-3)]
    assert plan_time_s(parts, CALLS) == pytest.approx(2e-3 + sum(CALLS.wakings.of_parts(parts)) + 3e-5)
