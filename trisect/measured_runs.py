"""``trisect run`` and ``trisect.verify``: repeat runs of a plan, and compare it with the whole model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trisect.runtime import verification
from trisect.runtime.checks.stream_guard import GuardOptions
from trisect.runtime.plans import plan_origins
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.plans.timeline import Trace
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session
from trisect.runtime.verification import Verification


@dataclass(frozen=True)
class RepeatedRun:
    """Outputs and trace of repeated runs of a plan."""

    outputs: Mapping[str, np.ndarray]
    """Outputs of the last repetition."""
    trace: Trace

    def medians_s(self) -> dict[str, float]:
        """Return the median time of each segment over the repetitions, by its name."""
        times: dict[str, list[float]] = defaultdict(list)
        for event in self.trace.events:
            if event.kind == "compute":
                times[event.name].append(event.duration_s)
        return {name: statistics.median(values) for name, values in times.items()}


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
    """Run a plan on the same feeds repeatedly, one run after the other, after one warm-up run.

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
    with Session(plan, executor, address=address, guard_every=guard_every) as session:
        outputs = session.run(inputs)
        for done, outputs in enumerate(session.stream([inputs] * repeat, window=1)):  # noqa: B007
            progress(done + 1, repeat, f"run {done + 1} of {repeat}")
        return RepeatedRun(outputs, session.trace)


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
