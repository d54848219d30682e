"""Refines a plan by running it: costs are corrected by the measured times of its segments, and the plan is made again.

What a cut costs (fusions lost, layout changes) and how engines on the same cores slow each other only shows when a plan
runs. The fastest of the plans that ran is returned, so that refinement never makes a plan slower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.errors import InvalidInput, TrisectError
from trisect.runtime.plans.check_result import PlanCheck
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.scheduler.problem.problem import Part
from trisect.scheduler.simulation.part_times import boundary_time_s

from ..costs.isolated_measurement import measure_plan
from ..costs.model_costs import segment_terms_of
from ..problem.problem_builder import ProblemInputs
from ..problem.task_grouping import task_of_node
from .plan_request import SegmentRecorder
from .refused_segments import SegmentsDiffer, raise_wrong

log = logging.getLogger(__name__)

_CORRECTION_MAX = 5.0


def refined(
    inputs: ProblemInputs,
    planned: Callable[[ProblemInputs, Path], Plan],
    iterations: int,
    out_folder: Path,
    *,
    baselines: Sequence[Callable[[ProblemInputs, Path], Plan]] = (),
    record: SegmentRecorder | None = None,
    check: Callable[[Plan], PlanCheck] | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Plan, run and correct the costs until the plan does not change any more; write the fastest plan.

    Parameters
    ----------
    planned : callable
        Makes a plan in a folder.
    iterations : int
        Maximum number of further plans.
    baselines : sequence of callable
        Make plans of one device each, which run first: a split must be faster than these.
    record : callable, optional
        Called with the measurements of each plan.
    check : callable, optional
        Verifies the fastest plan; where that is wrong, the next one.

    Raises
    ------
    InvalidInput
        For an objective that running a plan does not measure, and for devices that are not on this machine.
    TrisectError
        As `make_plan`; or when a plan cannot be run.
    """
    _check(inputs)
    measured: dict[tuple[tuple[str, str], ...], tuple[float, Plan]] = {}
    steps = iterations + 1 + len(baselines)
    with ScratchFolder("refine") as scratch:

        def measure(number: int, plan: Plan) -> bool:
            """Run a plan and correct the costs; False for a placement that has run already."""
            nonlocal inputs
            key = tuple(plan.placement.items())
            if key in measured:
                return False
            progress(number, steps, f"running plan {len(measured) + 1}")
            runs = measure_plan(plan)
            measured[key] = (runs.value_s, plan)
            warm = _without_wakeups(inputs, plan, runs.timing)
            if record is not None:
                record(_measured_segments(inputs, plan, warm))
            inputs = _corrected(inputs, plan, warm)
            return True

        for number, make in enumerate(baselines):
            try:
                measure(number, make(inputs, Path(scratch) / f"baseline {number}"))
            except TrisectError as error:  # one device alone may not support the model, or not be allowed to run it
                log.info("a single device is left out of refinement: %s", error)
        for number in range(iterations + 1):
            if not measure(len(baselines) + number, planned(inputs, Path(scratch) / str(number))):
                break
        progress(steps, steps, "verifying the fastest plan against the whole model")
        best_s, best = _fastest_right(sorted(measured.values(), key=lambda pair: pair[0]), check)
        what = "latency" if inputs.objective == "latency" else "time per item"
        note = f"the quickest of {len(measured)} plans that ran: {what} {best_s * 1e3:.3g} ms, measured"
        saved = replace(best, notes=(*best.notes, note)).save(out_folder)
        return replace(saved, verified=best.verified)


def _fastest_right(
    plans: Sequence[tuple[float, Plan]], check: Callable[[Plan], PlanCheck] | None
) -> tuple[float, Plan]:
    """Return the first of the plans that computes what the whole model does, with its time."""
    if check is None:
        return plans[0]
    results = []
    for time_s, plan in plans:
        results.append(check(plan))
        if results[-1].ok is not False:
            return time_s, replace(plan, verified=results[-1])
    try:
        raise_wrong(plans[0][1], results[0])
    except SegmentsDiffer as error:
        raise error.unresolved() from None
    raise AssertionError("unreachable")


def _check(inputs: ProblemInputs) -> None:
    if inputs.objective not in ("latency", "throughput"):
        raise InvalidInput(
            f"running a plan does not measure its {inputs.objective}", remedy="refine for latency or throughput"
        )
    remote = [device.id for device in inputs.devices if device.node or device.reality == "published"]
    if remote:
        raise InvalidInput(f"{', '.join(remote)} cannot be run from here", remedy="plan without --refine")


def _corrected(inputs: ProblemInputs, plan: Plan, trial: PlanTiming) -> ProblemInputs:
    """Return the inputs with the tasks of each segment scaled to its measured time."""
    problem, owner = inputs.problem, task_of_node(inputs.tasks)
    factors = dict(inputs.factors)
    for segment, time_s in zip(plan.segments, trial.segments_s, strict=True):
        tasks = dict.fromkeys(owner[node] for node in segment.nodes if node in owner)
        predicted_s = sum(problem.time(task, segment.device) for task in tasks)
        overhead_s = problem.overhead(segment.device) + boundary_time_s(problem, Part(segment.device, tuple(tasks)))
        tasks_s = max(time_s - overhead_s, time_s / 2)
        if predicted_s > 0:
            factor = min(max(tasks_s / predicted_s, 1 / _CORRECTION_MAX), _CORRECTION_MAX)
            for task in tasks:
                factors[task, segment.device] = factors.get((task, segment.device), 1.0) * factor
    return replace(inputs, factors=factors)


def _measured_segments(inputs: ProblemInputs, plan: Plan, trial: PlanTiming) -> dict[str, list[MeasuredSegment]]:
    segments: dict[str, list[MeasuredSegment]] = {}
    for segment, time_s, spread in zip(plan.segments, trial.segments_s, trial.spreads, strict=True):
        if any(spec.layout == "NHWC" for spec in (*segment.inputs, *segment.outputs)):
            continue  # its cost terms include layout changes, which it does not need
        terms = segment_terms_of(inputs.graph, segment.nodes)
        segments.setdefault(segment.device, []).append(MeasuredSegment(terms, time_s, spread, "plan"))
    return segments


def _without_wakeups(inputs: ProblemInputs, plan: Plan, trial: PlanTiming) -> PlanTiming:
    """Return the trial with the time that each segment would take in a loop of its own."""
    wakeup_costs = inputs.problem.platform.wakeup_costs
    if wakeup_costs is None:
        return trial
    parts = [(segment.device, t) for segment, t in zip(plan.segments, trial.segments_s, strict=True)]
    return replace(trial, segments_s=tuple(wakeup_costs.warm_times_s(parts)))
