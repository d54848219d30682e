"""``trisect run`` and ``trisect.verify``: repeat runs of a plan, and compare it with the whole model."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trisect.profiles.measuring.call_timing import repeat as repeat_call
from trisect.runtime import verification
from trisect.runtime.checks.stream_guard import GuardOptions
from trisect.runtime.plans import plan_origins
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.plans.timeline import Trace
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session
from trisect.runtime.verification import Verification

_WARM_UP_S, _WARM_UP_RUNS_MAX = 0.2, 4


@dataclass(frozen=True)
class MeasuredTimes:
    """Times of repeated runs of a plan, one run after the other."""

    runs: int
    latency_s: float
    """Median time of a call of the session as seen by its caller: from the feeds to the outputs."""
    latency_quartiles_s: tuple[float, float]
    """The first and the third quartile of the same times."""
    segments_s: dict[str, float]
    """Median time of each segment, by its name in the trace: the computation without transfers and conversions."""


@dataclass(frozen=True)
class RepeatedRun:
    """Outputs, times and trace of repeated runs of a plan."""

    outputs: Mapping[str, np.ndarray]
    """Outputs of the last repetition."""
    measured: MeasuredTimes
    trace: Trace
    """Of all repetitions; of very many the last."""


def run(
    plan: Plan,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    repeat: int = 10,
    seed: int = 0,
    executor: str = "threads",
    address: str | None = None,
    guard_every: int | GuardOptions | None = None,
    progress: Progress = no_progress,
) -> RepeatedRun:
    """Run a plan on the same feeds repeatedly, one run after the other, after warm-up runs that are not counted.

    Parameters
    ----------
    feeds : mapping of str to array, optional
        Every input; generated from the seed when left out.
    repeat : int
        Number of runs.
    seed : int
        Random seed of generated feeds.
    executor, address, guard_every
        As for `Session`.

    Raises
    ------
    InvalidInput
        For feeds that do not match the inputs.
    EngineFailed
        With segment, node and device.
    """
    inputs = dict(feeds) if feeds is not None else plan_feeds(plan, seed)
    calls_s: list[float] = []
    with Session(plan, executor, address=address, guard_every=guard_every) as session:
        for _ in repeat_call(_WARM_UP_S, 1, _WARM_UP_RUNS_MAX):
            outputs = session.run(inputs)
        runs = session.stream([inputs] * repeat, window=1)
        start_s = time.perf_counter()
        for outputs in runs:  # noqa: B007
            calls_s.append(time.perf_counter() - start_s)
            progress(len(calls_s), repeat, f"run {len(calls_s)} of {repeat}")
            start_s = time.perf_counter()
        trace = session.trace
    return RepeatedRun(outputs, _measured_times(calls_s, trace), trace)


def _measured_times(calls_s: Sequence[float], trace: Trace) -> MeasuredTimes:
    segments_s: dict[str, list[float]] = defaultdict(list)
    for event in trace.events:
        if event.kind == "compute":
            segments_s[event.name].append(event.duration_s)
    low_s, median_s, high_s = map(float, np.percentile(calls_s, (25, 50, 75)))
    medians_s = {name: float(np.median(times_s)) for name, times_s in segments_s.items()}
    return MeasuredTimes(len(calls_s), median_s, (low_s, high_s), medians_s)


def verify(
    plan: Plan,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    model: str | Path | None = None,
    reference: str | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    executor: str = "threads",
    address: str | None = None,
) -> Verification:
    """Run a plan and the whole model on the same feeds, and compare every segment boundary and output.

    Parameters
    ----------
    feeds : mapping of str to array, optional
        Every input; generated when left out.
    model : path, optional
        The whole model; when left out, the file that was split on this machine.
    reference : str, optional
        Device that runs the whole model; when left out ``cpu:ort``, or ``cpu:reference`` where that cannot run it.
    tolerance : float, optional
        Absolute plus relative tolerance of floats; when left out 1e-3, and more for models that compute in float16 or
        8-bit integers. Integers, booleans and strings have to be equal.
    seed : int
        Random seed of generated feeds.
    executor, address : str
        As for `Session`, of the split model.

    Raises
    ------
    InvalidInput
        When the model cannot be found, or has changed.
    """
    path = Path(model) if model is not None else plan_origins.find_model(plan)
    plan_origins.check_model(plan, path)
    return verification.verify(
        plan, path, feeds, reference=reference, tolerance=tolerance, seed=seed, executor=executor, address=address
    )
