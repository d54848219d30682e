"""Timings are medians with a spread, over as many runs as time and limits allow."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from trisect.profiles.measuring import call_timing


def test_time_calls_takes_the_median_and_the_spread(monkeypatch):
    durations_s = [5.0, 1.0, 3.0, 2.0, 4.0]
    reads = [0.0, *itertools.chain.from_iterable((10.0 * i, 10.0 * i + d) for i, d in enumerate(durations_s)), 99.0]
    clock = iter(reads)
    monkeypatch.setattr(call_timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls = []
    row = call_timing.time_calls(lambda: calls.append(1), duration_s=0.0, min_runs=5)
    assert len(calls) == 7  # two of them to warm up
    assert row.median_s == 3.0
    assert row.spread == pytest.approx((4.0 - 2.0) / 3.0)


def test_runs_stay_within_their_limits(monkeypatch):
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(call_timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert len(list(call_timing.repeat(0.0, 3, 10))) == 3
    assert len(list(call_timing.repeat(100.0, 3, 10))) == 10
    assert len(list(call_timing.repeat(5.0, 0, 10))) == 4
