"""The measurement of the simulator counts its events correctly."""

from __future__ import annotations

from trisect.bench.acceptance.simulation_speed import bench_simulation


def test_events_are_starts_ends_and_transfers() -> None:
    (small, large) = bench_simulation([10, 30], rounds=1)
    assert (small.tasks, large.tasks) == (10, 30)
    for speed in (small, large):
        assert speed.events == 2 * speed.tasks + speed.transfers
        assert speed.whole_events_per_s > 0
        assert speed.met == (speed.events_per_s >= 1e6)
