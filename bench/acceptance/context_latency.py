"""Latency of a context's calls, which an application makes while it builds a page."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trisect.context.can_run import can_run
from trisect.context.context import create_context
from trisect.context.history import History
from trisect.profiles.capabilities.op_support_limits import cached_limits
from trisect.runtime.engines import find_hardware

from .interleaved_timing import median_s, timed
from .plan_speed import layered_model
from .target_check import TargetCheck

_TARGET_S = 0.1


@dataclass(frozen=True)
class ContextLatency:
    """Median latencies with warm caches."""

    nodes: int
    create_context_s: float
    can_run_s: float
    """Of a model that was checked before."""
    can_run_cold_s: float
    """Of the same model for the first time: its graph is read and the engines are queried."""
    query_support_s: float | None
    """None where the devices' limits are unknown: ``trisect devices --limits`` measures them."""

    def checks(self) -> list[TargetCheck]:
        """Return the target of each call."""
        measured_s = {"create_context": self.create_context_s, "can_run, checked before": self.can_run_s}
        if self.query_support_s is not None:
            measured_s["query_support"] = self.query_support_s
        return [
            TargetCheck(
                f"{what}, {self.nodes} nodes",
                f"<= {_TARGET_S * 1e3:.0f} ms",
                f"{time_s * 1e3:.2g} ms",
                time_s <= _TARGET_S,
            )
            for what, time_s in measured_s.items()
        ]


def bench_context(nodes: int = 10_000, *, rounds: int = 20) -> ContextLatency:
    """Time the calls of a context about a model of some number of nodes; the median of the rounds counts."""
    with layered_model(nodes) as model, tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "history.sqlite")
        check = partial(can_run, model, history=history)
        create = partial(create_context, power_preference="low-power")
        cold_s = timed(check)[1]
        context = create()
        query_s = None
        if all(cached_limits(device) is not None for device in find_hardware("auto")):
            query = partial(context.query_support, ["float32"], 4, ["MatMul", "lstm"])
            query()
            query_s = median_s(query, rounds)
        return ContextLatency(nodes, median_s(create, rounds), median_s(check, rounds), cold_s, query_s)
