"""Corrects costs by the measured times of a plan's segments, and makes training data of cost models from them.

What a cut costs (fusions lost, layout changes) and how engines on the same cores slow each other only shows when a plan
runs.
"""

from __future__ import annotations

from dataclasses import replace

from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.plans.plan import Plan
from trisect.scheduler.problem.problem import Part
from trisect.scheduler.simulation.part_times import boundary_time_s

from ..costs.model_costs import nhwc_tensors, segment_terms_of
from ..problem.problem_builder import ProblemInputs
from ..problem.task_grouping import task_of_node

_CORRECTION_MAX = 5.0


def without_wakeups(inputs: ProblemInputs, plan: Plan, timing: PlanTiming) -> PlanTiming:
    """Return the times that each segment would take in a loop of its own."""
    wakeup_costs = inputs.problem.platform.wakeup_costs
    if wakeup_costs is None:
        return timing
    parts = [(segment.device, t) for segment, t in zip(plan.segments, timing.segments_s, strict=True)]
    return replace(timing, segments_s=tuple(wakeup_costs.warm_times_s(parts)))


def corrected(inputs: ProblemInputs, plan: Plan, timing: PlanTiming) -> ProblemInputs:
    """Return the inputs with the tasks of each segment scaled to its measured time, and refined cost models.

    Parameters
    ----------
    timing : PlanTiming
        As `without_wakeups` returns it.
    """
    problem, owner = inputs.problem, task_of_node(inputs.tasks)
    factors = dict(inputs.factors)
    placement = {owner[node]: s.device for s in plan.segments for node in s.nodes if node in owner}
    for segment, time_s in zip(plan.segments, timing.segments_s, strict=True):
        tasks = dict.fromkeys(owner[node] for node in segment.nodes if node in owner)
        predicted_s = sum(problem.time(task, segment.device) for task in tasks)
        crossing_s = boundary_time_s(problem, Part(segment.device, tuple(tasks)), placement)
        overhead_s = problem.overhead(segment.device) + crossing_s
        tasks_s = max(time_s - overhead_s, time_s / 2)
        if predicted_s > 0:
            factor = min(max(tasks_s / predicted_s, 1 / _CORRECTION_MAX), _CORRECTION_MAX)
            for task in tasks:
                factors[task, segment.device] = factors.get((task, segment.device), 1.0) * factor
    models = inputs.costs.models
    rows = measured_segments(inputs, plan, timing)
    refined = {key: models[key].refined(segments) for key, segments in rows.items() if key in models}
    return replace(inputs, factors=factors, costs=inputs.costs.with_models(refined))


def measured_segments(inputs: ProblemInputs, plan: Plan, timing: PlanTiming) -> dict[str, list[MeasuredSegment]]:
    """Return the segments of each device (by its id) with their cost terms; parameters of `corrected`."""
    segments: dict[str, list[MeasuredSegment]] = {}
    for segment, time_s, spread in zip(plan.segments, timing.segments_s, timing.spreads, strict=True):
        terms = segment_terms_of(inputs.graph, segment.nodes, nhwc_tensors(segment))
        segments.setdefault(segment.device, []).append(MeasuredSegment(terms, time_s, spread, "plan"))
    return segments
