"""Refines a plan by running it: costs are corrected by what its own segments took, and the plan is made anew.

What a cut loses (fusions, layouts) and what engines on the same cores take from each other shows when the plan runs,
and only there. The quickest of the plans that ran is kept, so that refining never makes anything slower.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from trisect.profiles.measuring.plan_trial import Trial, run_trial
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.errors import InvalidInput, TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.part_times import boundary_time_s

from ..costs.trial_plans import trial_feeds
from ..graph.op_instances import terms_of, works
from .preparation import Prepared

Keep = Callable[[Mapping[str, Sequence[MeasuredSegment]]], None]
"""Given measured segments of each device."""

_FARTHEST = 5.0
_ITEMS, _STREAMS = 12, 5


def refined(
    prepared: Prepared,
    planned: Callable[[Prepared, Path], Plan],
    rounds: int,
    out_folder: Path,
    *,
    alone: Sequence[Callable[[Prepared, Path], Plan]] = (),
    keep: Keep | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Plan, run and correct the costs, until the plan stays the same; the quickest plan is written.

    Parameters
    ----------
    prepared : Prepared
    planned : callable
        Makes a plan in a folder.
    rounds : int
        At most so many plans more.
    out_folder : Path
    alone : sequence of callable
        Make plans of one device each, which run first: no split is worth more than it gains against these.
    keep : callable, optional
        Given what was measured of each plan.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For an objective that running a plan does not show, and for devices that are not at hand.
    TrisectError
        As `make_plan`; where a plan cannot be run.
    """
    _check(prepared)
    ran: dict[tuple[tuple[str, str], ...], tuple[float, Plan]] = {}
    steps = rounds + 1 + len(alone)
    with TemporaryDirectory(prefix="trisect-refine-") as scratch:

        def tried(number: int, plan: Plan) -> bool:
            """Run a plan that has not run yet."""
            nonlocal prepared
            key = tuple(plan.placement.items())
            if key in ran:
                return False
            progress(number, steps, f"running plan {len(ran) + 1}")
            trial = run_trial(plan, trial_feeds(plan), most=200)
            ran[key] = (_value_s(plan, trial), plan)
            problem = prepared.problem()
            awake = _awake(problem, plan, trial)
            if keep is not None:
                keep(_learned(prepared, plan, awake))
            prepared = _corrected(prepared, problem, plan, awake)
            return True

        for number, make in enumerate(alone):
            with contextlib.suppress(TrisectError):  # one device alone may not be able, or not be allowed to
                tried(number, make(prepared, Path(scratch) / f"alone {number}"))
        for number in range(rounds + 1):
            if not tried(len(alone) + number, planned(prepared, Path(scratch) / str(number))):
                break
        best_s, best = min(ran.values(), key=lambda pair: pair[0])
        what = "latency" if prepared.objective == "latency" else "time per item"
        note = f"the quickest of {len(ran)} plans that ran: {what} {best_s * 1e3:.3g} ms, measured"
        return replace(best, notes=(*best.notes, note)).save(out_folder)


def _check(prepared: Prepared) -> None:
    if prepared.objective not in ("latency", "throughput"):
        raise InvalidInput(
            f"a run does not show the {prepared.objective} of a plan", remedy="refine for latency or throughput"
        )
    far = [device.id for device in prepared.devices if device.node or device.reality == "published"]
    if far:
        raise InvalidInput(f"{', '.join(far)} cannot be run from here", remedy="plan without --refine")


def _value_s(plan: Plan, trial: Trial) -> float:
    """What the objective is, measured: seconds of a call, or for each item of a stream."""
    if plan.objective == "latency":
        return trial.latency_s
    feeds = trial_feeds(plan)
    with Session(plan) as session:
        taken_s = []
        for _ in range(_STREAMS):
            begun_s = time.perf_counter()
            for _ in session.stream([feeds] * _ITEMS):
                pass
            taken_s.append(time.perf_counter() - begun_s)
    return sorted(taken_s)[_STREAMS // 2] / _ITEMS


def _corrected(prepared: Prepared, problem: Problem, plan: Plan, trial: Trial) -> Prepared:
    """With the tasks of each segment taking as much longer, or shorter, as the segment did."""
    home = {node: task for task, nodes in prepared.tasks.nodes(data="nodes") for node in nodes}
    factors = dict(prepared.factors)
    for segment, time_s in zip(plan.segments, trial.segments_s, strict=True):
        tasks = dict.fromkeys(home[node] for node in segment.nodes if node in home)
        predicted_s = sum(problem.time(task, segment.device) for task in tasks)
        beyond_s = problem.overhead(segment.device) + boundary_time_s(problem, Part(segment.device, tuple(tasks)))
        inside_s = max(time_s - beyond_s, time_s / 2)
        if predicted_s > 0:
            factor = min(max(inside_s / predicted_s, 1 / _FARTHEST), _FARTHEST)
            for task in tasks:
                factors[task, segment.device] = factors.get((task, segment.device), 1.0) * factor
    return replace(prepared, factors=factors)


def _learned(prepared: Prepared, plan: Plan, trial: Trial) -> dict[str, list[MeasuredSegment]]:
    known = works(prepared.graph)
    found: dict[str, list[MeasuredSegment]] = {}
    for segment, time_s, spread in zip(plan.segments, trial.segments_s, trial.spreads, strict=True):
        if any(spec.layout == "NHWC" for spec in (*segment.inputs, *segment.outputs)):
            continue  # its cost terms include reordering these images, which it need not do
        terms = tuple(terms_of(prepared.graph, known, segment.nodes))
        found.setdefault(segment.device, []).append(MeasuredSegment(terms, time_s, spread, "plan"))
    return found


def _awake(problem: Problem, plan: Plan, trial: Trial) -> Trial:
    """The trial with what each segment would have taken in a loop of its own."""
    if problem.platform.wakeup_costs is None:
        return trial
    parts = [(segment.device, t) for segment, t in zip(plan.segments, trial.segments_s, strict=True)]
    return replace(trial, segments_s=tuple(problem.platform.wakeup_costs.without(parts)))
