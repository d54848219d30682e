"""Measures made-up networks, cut at random, for a cost model to learn from."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from trisect.profiles.costmodel.call_costs import Calls
from trisect.profiles.measuring.plan_trial import Trial, run_trial
from trisect.profiles.stored.segment_store import MeasuredSegment, Origin, SegmentStore
from trisect.profiles.synthetic_networks import network
from trisect.runtime.device import Device
from trisect.runtime.errors import TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress

from ..graph.model_graph import Graph
from .kernel_breakdown import kernel_segments, measure_calls
from .trial_plans import TrialModel, TrialPlan, trial_feeds

_CUTS = 6
_MOST_FLOPS = 2e9
_LASTING_S, _FEWEST, _MOST = 0.06, 5, 40
_KEPT_EVERY = 40


def learn_from_networks(
    devices: Sequence[Device],
    known: SegmentStore,
    *,
    budget_s: float,
    keep: Callable[[SegmentStore], None] | None = None,
    progress: Progress = no_progress,
) -> SegmentStore:
    """Measure more networks: each whole on every device, and cut at random over all of them.

    Parameters
    ----------
    devices : sequence of Device
        Two or more.
    known : SegmentStore
        What was measured before: goes on with the next network.
    budget_s : float
        After so long no further network is begun; what calls take is measured before, in some seconds.
    keep : callable, optional
        Given what is known so far, now and then and when the user interrupts.
    progress : callable, optional
    """
    calls = measure_calls(devices)
    store, begun_s = known, time.monotonic()
    taken_s = begun_s
    found: dict[str, list[MeasuredSegment]] = defaultdict(list)
    found.update({device_id: [row] for device_id, row in calls.awake.items()})
    number = known.networks

    def take() -> SegmentStore:
        nonlocal store, taken_s
        now_s = time.monotonic()
        store = store.adding(devices, found, number, now_s - taken_s)
        taken_s = now_s
        found.clear()
        if keep is not None:
            keep(store)
        return store

    try:
        while (spent_s := time.monotonic() - begun_s) < budget_s:
            progress(round(spent_s), round(budget_s), f"network {number}")
            for device_id, row in _measure(number, devices, calls):
                found[device_id].append(row)
            number += 1
            if number % _KEPT_EVERY == 0:
                take()
    except KeyboardInterrupt:
        take()
        raise
    return take()


def learn_from_model(
    path: Path, shapes: Mapping[str, int], devices: Sequence[Device], known: SegmentStore
) -> SegmentStore:
    """Run one model whole on each device, and look at its kernels: that corrects what is thought of its operators.

    Raises
    ------
    TrisectError
        Where the model cannot be read or run.
    """
    begun_s = time.monotonic()
    found: dict[str, list[MeasuredSegment]] = defaultdict(list)
    with TemporaryDirectory(prefix="trisect-learn-") as folder:
        model = TrialModel(Graph.read(path, shapes), devices)
        calls = measure_calls(devices)
        for i, device in enumerate(devices):
            trial_plan = model.whole(device, Path(folder) / str(i))
            trial = run_trial(trial_plan.plan, trial_feeds(trial_plan.plan))
            kernels = kernel_segments(model, trial_plan, trial, calls.wakings.awake_s)
            for device_id, row in measured_segments(trial_plan, trial, calls, "plan") + kernels:
                found[device_id].append(row)
    return known.adding(devices, found, known.networks, time.monotonic() - begun_s)


def _measure(number: int, devices: Sequence[Device], calls: Calls) -> list[tuple[str, MeasuredSegment]]:
    """What one network tells; nothing of one that would take too long, or that an engine refuses."""
    rows: list[tuple[str, MeasuredSegment]] = []
    with TemporaryDirectory(prefix="trisect-learn-") as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(network(number))
        try:
            model = TrialModel(Graph.read(path), devices)
            if model.flops > _MOST_FLOPS:
                return []
            wholes = [model.whole(device, Path(folder) / f"whole {i}") for i, device in enumerate(devices)]
            cut = model.random(f"network {number}", _CUTS, Path(folder) / "cut")
            for plan in (*wholes, cut):
                trial = _run(plan.plan)
                rows += measured_segments(plan, trial, calls)
                if plan in wholes:
                    rows += kernel_segments(model, plan, trial, calls.wakings.awake_s, _LASTING_S, "network")
        except TrisectError:
            return []
    return rows


def _run(plan: Plan) -> Trial:
    return run_trial(plan, trial_feeds(plan), lasting_s=_LASTING_S, fewest=_FEWEST, most=_MOST)


def measured_segments(
    trial_plan: TrialPlan, trial: Trial, calls: Calls, origin: Origin = "network"
) -> list[tuple[str, MeasuredSegment]]:
    """Device id and figures of each segment of a plan that ran, as it would run in a loop of its own."""
    parts = [(part.device, time_s) for part, time_s in zip(trial_plan.plan.segments, trial.segments_s, strict=True)]
    rows = zip(parts, trial_plan.terms, calls.wakings.without(parts), trial.spreads, strict=True)
    return [(device, MeasuredSegment(terms, time_s, spread, origin)) for (device, _), terms, time_s, spread in rows]
