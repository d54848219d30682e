"""The measurement of a context's calls holds each against its target."""

from __future__ import annotations

from trisect.bench.acceptance.context_latency import ContextLatency, bench_context


def test_each_measured_call_has_a_target() -> None:
    latency = ContextLatency(10, 0.001, 0.2, 3.0, None)
    assert [(check.what, check.met) for check in latency.checks()] == [
        ("create_context, 10 nodes", True),
        ("can_run, checked before, 10 nodes", False),
    ]
    assert len(ContextLatency(10, 0.001, 0.2, 3.0, 0.01).checks()) == 3


def test_calls_are_measured_on_this_machine() -> None:
    latency = bench_context(20, rounds=1)
    assert latency.nodes == 20
    assert min(latency.create_context_s, latency.can_run_s, latency.can_run_cold_s) > 0
