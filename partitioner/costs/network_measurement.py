"""Measures synthetic networks, whole and cut at random, to fit cost models to."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trisect.profiles.costmodel.call_costs import CallCosts
from trisect.profiles.measuring.plan_trial import PlanTiming, run_trial
from trisect.profiles.stored.segment_store import MeasuredSegment, Origin, SegmentStore
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime.device import Device
from trisect.runtime.errors import TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder

from ..graph.model_graph import Graph
from .kernel_breakdown import kernel_segments, measure_calls
from .trial_plans import TrialModel, TrialPlan

_CUTS_MAX = 6
_FLOPS_MAX = 2e9
_DURATION_MIN_S, _RUNS_MIN, _RUNS_MAX = 0.06, 5, 40
_NETWORKS_PER_SAVE = 40

log = logging.getLogger(__name__)


def measure_networks(
    devices: Sequence[Device],
    known: SegmentStore,
    *,
    budget_s: float,
    save: Callable[[SegmentStore], object] | None = None,
    progress: Progress = no_progress,
) -> SegmentStore:
    """Measure synthetic networks: each whole on every device, and cut at random over all devices.

    Parameters
    ----------
    devices : sequence of Device
        Two or more.
    known : SegmentStore
        Earlier measurements; continues with the next network.
    budget_s : float
        Time after which no further network is started; measuring call overheads takes some seconds more.
    save : callable, optional
        Called with all measurements from time to time, and when the user interrupts.
    """
    calls = measure_calls(devices)
    store, start_s = known, time.monotonic()
    stored_at_s = start_s
    rows: dict[str, list[MeasuredSegment]] = defaultdict(list)
    rows.update({device_id: [row] for device_id, row in calls.warm.items()})
    number = known.networks

    def add_to_store() -> SegmentStore:
        nonlocal store, stored_at_s
        now_s = time.monotonic()
        store = store.extended(devices, rows, number, now_s - stored_at_s)
        stored_at_s = now_s
        rows.clear()
        if save is not None:
            save(store)
        return store

    try:
        while (spent_s := time.monotonic() - start_s) < budget_s:
            progress(round(spent_s), round(budget_s), f"network {number}")
            for device_id, row in _measure_network(number, devices, calls):
                rows[device_id].append(row)
            number += 1
            if number % _NETWORKS_PER_SAVE == 0:
                add_to_store()
    except KeyboardInterrupt:
        add_to_store()
        raise
    return add_to_store()


def measure_model(
    path: Path, shapes: Mapping[str, int], devices: Sequence[Device], known: SegmentStore
) -> SegmentStore:
    """Measure one model whole on each device, kernels included, to correct the costs of its operators.

    Raises
    ------
    TrisectError
        When the model cannot be read or run.
    """
    start_s = time.monotonic()
    rows: dict[str, list[MeasuredSegment]] = defaultdict(list)
    with ScratchFolder("networks") as folder:
        model = TrialModel(Graph.read(path, shapes), devices)
        calls = measure_calls(devices)
        for i, device in enumerate(devices):
            trial_plan = model.whole(device, Path(folder) / str(i))
            trial = run_trial(trial_plan.plan, plan_feeds(trial_plan.plan))
            kernels = kernel_segments(model, trial_plan, trial, calls.wakeup_costs.warm_s)
            for device_id, row in measured_segments(trial_plan, trial, calls, "plan") + kernels:
                rows[device_id].append(row)
    return known.extended(devices, rows, known.networks, time.monotonic() - start_s)


def _measure_network(number: int, devices: Sequence[Device], calls: CallCosts) -> list[tuple[str, MeasuredSegment]]:
    """Measure one network; nothing of one that would take too long, or that an engine refuses."""
    rows: list[tuple[str, MeasuredSegment]] = []
    with ScratchFolder("networks") as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(synthetic_network(number))
        try:
            model = TrialModel(Graph.read(path), devices)
            if model.flops > _FLOPS_MAX:
                return []
            wholes = [model.whole(device, Path(folder) / f"whole {i}") for i, device in enumerate(devices)]
            cut = model.random(f"network {number}", _CUTS_MAX, Path(folder) / "cut")
            for plan in (*wholes, cut):
                trial = _run(plan.plan)
                rows += measured_segments(plan, trial, calls)
                if plan in wholes:
                    rows += kernel_segments(model, plan, trial, calls.wakeup_costs.warm_s, _DURATION_MIN_S, "network")
        except TrisectError as error:
            log.info("network %d is left out: %s", number, error)
            return []
    return rows


def _run(plan: Plan) -> PlanTiming:
    return run_trial(plan, plan_feeds(plan), duration_s=_DURATION_MIN_S, min_runs=_RUNS_MIN, max_runs=_RUNS_MAX)


def measured_segments(
    trial_plan: TrialPlan, trial: PlanTiming, calls: CallCosts, origin: Origin = "network"
) -> list[tuple[str, MeasuredSegment]]:
    """Return device id and time of each segment of a measured plan, as it would run in a loop of its own."""
    parts = [(part.device, time_s) for part, time_s in zip(trial_plan.plan.segments, trial.segments_s, strict=True)]
    rows = zip(parts, trial_plan.terms, calls.wakeup_costs.warm_times_s(parts), trial.spreads, strict=True)
    return [(device, MeasuredSegment(terms, time_s, spread, origin)) for (device, _), terms, time_s, spread in rows]
