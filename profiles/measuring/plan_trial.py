"""Runs a plan and measures its segments where they stand: between the others, on the threads that will run them.

A segment timed alone in a loop has its data in the caches and its threads warm; in a plan it has neither. Callers and
engines' helpers are kept on cores of their own, because a system that puts both on one core makes everything take up to
twice as long for seconds; see `trisect.runtime.core_affinity`.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from trisect.runtime.core_affinity import pin_callers
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import Arrays

_WARM_UP = 4
_MOST_FOREIGN = 0.06
_TICK_S = 0.01
_PATIENCE = 3
_PAUSE_S = 0.3


@dataclass(frozen=True)
class Trial:
    """A plan's measured times."""

    latency_s: float
    """Median time of a call of the session, from the caller's side."""
    spread: float
    """Interquartile range as a share of the median."""
    segments_s: tuple[float, ...]
    """Median of each segment, in the plan's order."""
    spreads: tuple[float, ...]
    runs: int
    foreign: float | None
    """Share of the processor that other processes took meanwhile; None where the system does not tell."""

    @property
    def beyond_s(self) -> float:
        """What a call of the session takes beyond its segments."""
        return self.latency_s - sum(self.segments_s)


class LoadedTrial:
    """A plan that is loaded and warm, to be timed now and again.

    Parameters
    ----------
    plan : Plan
    feeds : mapping of str to ndarray
    options : LoadOptions, optional

    Raises
    ------
    EngineFailed
        Naming segment, node and device.
    """

    def __init__(self, plan: Plan, feeds: Arrays, options: LoadOptions | None = None) -> None:
        self._plan, self._feeds = plan, feeds
        self._session = Session(plan, options=replace(options or LoadOptions(), pinned=True))
        self._warm(1)
        pin_callers()
        self._warm(_WARM_UP)

    def run(self, *, lasting_s: float = 0.1, fewest: int = 6, most: int = 60) -> Trial:
        """Time some runs; once more where other processes disturbed them."""
        self._warm(1)
        best: Trial | None = None
        for attempt in range(_PATIENCE):
            before = _processor_s()
            found = _timed(self._session, self._plan, self._feeds, lasting_s, fewest, most)
            after = _processor_s()
            if before is None or after is None:
                return found
            elapsed_s = (after[1] - before[1]) * (os.cpu_count() or 1)
            found = replace(found, foreign=max(0.0, after[0] - before[0]) / elapsed_s)
            if best is None or (found.foreign or 0.0) < (best.foreign or 0.0):
                best = found
            if (found.foreign or 0.0) < _MOST_FOREIGN + _TICK_S / elapsed_s:
                break
            time.sleep(_PAUSE_S * (attempt + 1))
        assert best is not None
        return best

    def close(self) -> None:
        """Unload the plan."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warm(self, times: int) -> None:
        for _ in range(times):
            self._session.run(self._feeds)


def run_trial(
    plan: Plan, feeds: Arrays, *, lasting_s: float = 0.1, fewest: int = 6, most: int = 60,
    options: LoadOptions | None = None,
) -> Trial:  # fmt: skip
    """Load a plan, warm it up, and time its runs.

    Raises
    ------
    EngineFailed
        Naming segment, node and device.
    """
    with LoadedTrial(plan, feeds, options) as opened:
        return opened.run(lasting_s=lasting_s, fewest=fewest, most=most)


def _timed(session: Session, plan: Plan, feeds: Arrays, lasting_s: float, fewest: int, most: int) -> Trial:
    calls: list[float] = []
    parts: Mapping[str, list[float]] = defaultdict(list)
    end_s = time.perf_counter() + lasting_s
    while len(calls) < fewest or (len(calls) < most and time.perf_counter() < end_s):
        start_s = time.perf_counter()
        session.run(feeds)
        calls.append(time.perf_counter() - start_s)
        for event in session.trace.events:
            if event.kind == "compute":
                parts[event.name].append(event.duration_s)
    latency_s, spread = _median(calls)
    middles = [_median(parts[f"segment {segment.index}"]) for segment in plan.segments]
    return Trial(latency_s, spread, tuple(m for m, _ in middles), tuple(s for _, s in middles), len(calls), None)


def _median(values: list[float]) -> tuple[float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(middle), float((high - low) / middle) if middle > 0 else 0.0


def _processor_s() -> tuple[float, float] | None:
    """Seconds of processor that other processes had so far, and the time; None where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(text) for text in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    own = os.times()
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = fields
    busy_s = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
    return busy_s - own.user - own.system, time.perf_counter()
