"""A timeline's totals follow from its events, and its Chrome trace contains each of them."""

from __future__ import annotations

from trisect.runtime.plans.timeline import Event, Timeline

EVENTS = [
    Event("segment 0", "compute", "cpu:ort", 0.0, 0.002, item=0),
    Event("t", "transfer", "gpu:cuda", 0.002, 0.003, item=0, size_bytes=8),
    Event("segment 1", "compute", "gpu:cuda", 0.003, 0.004, item=0),
    Event("segment 0", "compute", "cpu:ort", 0.004, 0.006, item=1),
    Event("segment 1", "compute", "gpu:cuda", 0.006, 0.010, item=1),
]


def test_totals_are_those_of_the_items() -> None:
    timeline = Timeline.of(EVENTS, "measured")
    assert timeline.latency_s == 0.006  # the upper median of 4 and 6 ms
    assert timeline.throughput_hz == 2 / 0.010
    assert Timeline.of(EVENTS, "predicted", latency_s=1.0, energy_j=2.0).latency_s == 1.0
    empty = Timeline.of([], "measured")
    assert (empty.latency_s, empty.throughput_hz) == (0.0, 0.0)


def test_each_event_is_in_the_chrome_trace() -> None:
    rows = Timeline.of(EVENTS, "measured").chrome_trace(process=3, name="run")
    names = {row["args"]["name"] for row in rows if row["ph"] == "M"}
    assert names == {"run", "cpu:ort", "gpu:cuda"}
    slices = [(row["name"], row["ts"], row["dur"]) for row in rows if row["ph"] == "X"]
    assert slices[0] == ("segment 0", 0.0, 2000.0)
    assert len(slices) == 4
    begin, end = [row for row in rows if row["ph"] in "be"]
    assert (begin["id"], begin["args"]["size_bytes"], end["ts"]) == (end["id"], 8, 3000.0)
    assert {row["pid"] for row in rows} == {3}
