"""How long an application waits for a context's answers: all of them have to come while a page is being built."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from trisect.context.can_run import can_run
from trisect.context.context import create_context
from trisect.context.history import History
from trisect.profiles.capabilities.op_support_limits import known_limits
from trisect.runtime.engines import find_hardware

from .llm_targets import Bar
from .plan_speed import layered_model

_BAR_S = 0.1


@dataclass(frozen=True)
class ContextSpeed:
    """Medians, everything that is remembered being warm."""

    nodes: int
    create_context_s: float
    can_run_s: float
    """Of the large model, asked before."""
    can_run_cold_s: float
    """Of the same model, never asked: its graph is read and the engines are asked about it."""
    query_support_s: float | None
    """None where the devices' limits were never probed: ``trisect devices --limits`` does."""

    def bars(self) -> list[Bar]:
        """What is promised of these."""
        promised = {"create_context": self.create_context_s, "can_run, asked before": self.can_run_s}
        if self.query_support_s is not None:
            promised["query_support"] = self.query_support_s
        return [
            Bar(f"{what}, {self.nodes} nodes", f"<= {_BAR_S * 1e3:.0f} ms", f"{time_s * 1e3:.2g} ms", time_s <= _BAR_S)
            for what, time_s in promised.items()
        ]


def bench_context(nodes: int = 10_000, *, rounds: int = 20) -> ContextSpeed:
    """Time a context's answers about a model of so many nodes.

    Parameters
    ----------
    nodes : int
    rounds : int
        Of each question; the median counts.
    """
    with layered_model(nodes) as model, tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "history.sqlite")
        begin = perf_counter()
        can_run(model, history=history)
        cold_s = perf_counter() - begin
        context = create_context(power_preference="low-power")
        probed = all(known_limits(device) is not None for device in find_hardware("auto"))
        asked = (lambda: context.query_support(["float32"], 4, ["MatMul", "lstm"])) if probed else None
        return ContextSpeed(
            nodes,
            _median_s(lambda: create_context(power_preference="low-power"), rounds),
            _median_s(lambda: can_run(model, history=history), rounds),
            cold_s,
            _median_s(asked, rounds) if asked is not None else None,
        )


def _median_s(call: Callable[[], object], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return statistics.median(times)
