"""Runs a plan and times its segments in place: between the others, on the threads that will run them.

A segment timed alone in a loop has its data in the caches and its threads warm; in a plan it has neither. Callers and
the engines' helper threads are pinned to separate cores, because a system that schedules both on one core makes
everything up to twice as slow for seconds; see `trisect.runtime.core_affinity`.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from trisect.runtime.core_affinity import pin_callers
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import Arrays

from .call_timing import repeat, summarise

_WARM_UP = 4
_OTHER_LOAD_MAX = 0.06
_TICK_S = 0.01
_ATTEMPTS_MAX = 3
_PAUSE_S = 0.3
ENVIRONMENT = "TRISECT_MEASURE_ONCE"
"""Set where other processes always run, as beside a test suite: waiting for them to end would be in vain."""


@dataclass(frozen=True)
class PlanTiming:
    """Measured times of a plan."""

    latency_s: float
    """Median time of a call of the session, as seen by the caller."""
    spread: float
    """Interquartile range as a share of the median."""
    segments_s: tuple[float, ...]
    """Median of each segment, in the plan's order."""
    spreads: tuple[float, ...]
    runs: int
    other_load: float | None
    """Share of the processor that other processes used meanwhile; None = unknown."""

    @property
    def session_overhead_s(self) -> float:
        """Time of a call of the session beyond its segments."""
        return self.latency_s - sum(self.segments_s)


class PlanTrial:
    """A loaded and warm plan that can be timed repeatedly.

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
        self._warm_up(1)
        pin_callers()
        self._warm_up(_WARM_UP)

    def run(self, *, duration_s: float = 0.1, min_runs: int = 6, max_runs: int = 60) -> PlanTiming:
        """Time some runs; measure again, up to three times, where other processes interfered."""
        self._warm_up(1)
        best: PlanTiming | None = None
        for attempt in range(1 if os.environ.get(ENVIRONMENT) else _ATTEMPTS_MAX):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            load = OtherLoad()
            timing = time_runs(self._session, self._plan, self._feeds, duration_s, min_runs, max_runs)
            share, interfered = load.share_until_now()
            if share is None:
                return timing
            timing = replace(timing, other_load=share)
            if best is None or share < (best.other_load or 0.0):
                best = timing
            if not interfered:
                break
        assert best is not None
        return best

    def close(self) -> None:
        """Unload the plan."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warm_up(self, runs: int) -> None:
        for _ in range(runs):
            self._session.run(self._feeds)


def run_trial(
    plan: Plan,
    feeds: Arrays,
    *,
    duration_s: float = 0.1,
    min_runs: int = 6,
    max_runs: int = 60,
    options: LoadOptions | None = None,
) -> PlanTiming:
    """Load a plan, warm it up, and time its runs.

    Raises
    ------
    EngineFailed
        Naming segment, node and device.
    """
    with PlanTrial(plan, feeds, options) as trial:
        return trial.run(duration_s=duration_s, min_runs=min_runs, max_runs=max_runs)


def time_runs(
    session: Session, plan: Plan, feeds: Arrays, duration_s: float, min_runs: int, max_runs: int
) -> PlanTiming:
    """Time runs of a loaded plan and its segments, for some seconds but within limits of the number."""
    calls_s: list[float] = []
    segments_s: Mapping[str, list[float]] = defaultdict(list)
    for _ in repeat(duration_s, min_runs, max_runs):
        start_s = time.perf_counter()
        session.run(feeds)
        calls_s.append(time.perf_counter() - start_s)
        for event in session.trace.events:
            if event.kind == "compute":
                segments_s[event.name].append(event.duration_s)
    latency = summarise(calls_s)
    rows = [summarise(segments_s[f"segment {segment.index}"]) for segment in plan.segments]
    medians_s, spreads = tuple(row.median_s for row in rows), tuple(row.spread for row in rows)
    return PlanTiming(latency.median_s, latency.spread, medians_s, spreads, len(calls_s), None)


class OtherLoad:
    """The share of the processor that other processes use from now on."""

    def __init__(self) -> None:
        self._before = _other_processor_s()

    def share_until_now(self) -> tuple[float | None, bool]:
        """Return the share, and whether it is large enough to disturb a measurement; None where it is not known."""
        before, after = self._before, _other_processor_s()
        if before is None or after is None:
            return None, False
        elapsed_s = (after[1] - before[1]) * (os.cpu_count() or 1)
        share = max(0.0, after[0] - before[0]) / elapsed_s
        return share, share >= _OTHER_LOAD_MAX + _TICK_S / elapsed_s


def _other_processor_s() -> tuple[float, float] | None:
    """Return the processor seconds of other processes so far, and the time; None where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(text) for text in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    own = os.times()
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = fields
    busy_s = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
    return busy_s - own.user - own.system, time.perf_counter()
