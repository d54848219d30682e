"""Predicts the segments of a plan as wholes, with an interval for the plan.

A strategy searches with the sum of its tasks' times. Before a plan is shown, each segment is predicted from its own
cost terms: with the fusions that it keeps and loses, the layouts at its boundaries, and what was measured of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, sqrt

from trisect.runtime.plans.timeline import Schedule
from trisect.scheduler.problem.core_sharing import CoreSharing
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.simulation.part_times import loads_s, part_time_s, part_times_s, placement_of
from trisect.scheduler.simulation.simulate import evaluate

from ..problem.problem_builder import ProblemInputs
from ..segments.pieces import Piece
from .model_costs import segment_terms_of

_QUANTILE = 1.645
"""Of the normal distribution: 90 % lie within."""
_WAKEUP_DEVIATION = 0.4
_UNMODELLED = 0.3
"""Relative deviation on a device without a cost model: a sum of operators that were timed one by one."""


@dataclass(frozen=True)
class PlanPrediction:
    """The problem with the times of a plan's segments, and how sure they are."""

    problem: Problem
    deviation: float
    """Relative standard deviation of the time of all segments; 0 where costs are not measured."""
    segment_deviations: tuple[float, ...]
    notes: tuple[str, ...] = ()
    """Whose cost models were fitted on another machine."""

    def evaluate(self, parts: Sequence[Part], session_overhead_s: float) -> tuple[float, Schedule]:
        """Return the value of the objective and the schedule, as `simulate.evaluate`, but with a session's overhead.

        Parameters
        ----------
        session_overhead_s : float
            See `ProblemInputs`.
        """
        value, schedule = evaluate(self.problem, parts)
        schedule = replace(schedule, latency_s=schedule.latency_s + session_overhead_s)
        return (schedule.latency_s if self.problem.objective == "latency" else value), schedule

    def interval(self, value: float) -> tuple[float, float] | None:
        """Return the interval that contains the measured objective with 90 % probability; None where not known.

        Parameters
        ----------
        value : float
            The predicted one: seconds, or joules.
        """
        return None if self.problem.objective == "memory" else _interval(value, self.deviation)

    def with_intervals(self, schedule: Schedule) -> Schedule:
        """Return the predicted schedule with the intervals of its latency and of its segments."""
        events = {event.name: event.duration_s for event in schedule.events if event.kind == "compute"}
        segments = {
            name: interval
            for number, deviation in enumerate(self.segment_deviations)
            if (interval := _interval(events.get(name := f"segment {number}", 0.0), deviation)) is not None
        }
        return replace(
            schedule,
            latency_interval_s=_interval(schedule.latency_s, self.deviation),
            segment_intervals_s=segments or None,
        )


def predict_plan(
    inputs: ProblemInputs, problem: Problem, parts: Sequence[Part], pieces: Sequence[Piece], nhwc: Collection[str]
) -> PlanPrediction:
    """Predict each segment of a plan from its own cost terms; on devices without a cost model, from its tasks.

    Parameters
    ----------
    problem : Problem
    parts : sequence of Part
        Segments of a placement.
    pieces : sequence of Piece
        Their nodes, in the same order.
    nhwc : collection of str
        Tensors that cross boundaries in NHWC layout.
    """
    placement = placement_of(parts)
    known_s: dict[Part, float] = {}
    variances: dict[Part, float] = {}
    variance = 0.0
    for device_id in dict.fromkeys(part.device for part in parts):
        own = [(part, piece) for part, piece in zip(parts, pieces, strict=True) if part.device == device_id]
        model = inputs.costs.models.get(device_id)
        if model is None:
            times_s = [part_time_s(problem, part, placement) for part, _ in own]
            variances |= {part: (_UNMODELLED * time_s) ** 2 for (part, _), time_s in zip(own, times_s, strict=True)}
            variance += (_UNMODELLED * sum(times_s)) ** 2
            continue
        joint = model.joint_estimate([segment_terms_of(inputs.graph, piece.nodes, nhwc) for _, piece in own])
        scale = inputs.costs.scales.get(device_id, 1.0)
        for (part, _), time_s, square in zip(own, joint.times_s, joint.covariance.diagonal(), strict=True):
            known_s[part], variances[part] = time_s * scale, float(square) * scale**2
        variance += float(joint.covariance.sum()) * scale**2
    problem = replace(problem, known_parts_s={**problem.known_parts_s, **known_s})
    notes = _origin_notes(inputs, parts)
    if not inputs.costs.is_measured:
        return PlanPrediction(problem, 0.0, (), notes)
    times_s = part_times_s(problem, parts)
    wakeups_s = [time_s - part_time_s(problem, part, placement) for part, time_s in zip(parts, times_s, strict=True)]
    deviations = [
        _deviation(variances[part], wakeup_s, time_s, inputs.pace_deviation)
        for part, wakeup_s, time_s in zip(parts, wakeups_s, times_s, strict=True)
    ]
    deviation = _deviation(variance, sum(wakeups_s), sum(times_s), inputs.pace_deviation)
    return PlanPrediction(problem, deviation, tuple(deviations), notes)


def _origin_notes(inputs: ProblemInputs, parts: Sequence[Part]) -> tuple[str, ...]:
    models = inputs.costs.models
    origins = {part.device: models[part.device].origin for part in parts if part.device in models}
    foreign = [f"{device_id} ({origin})" for device_id, origin in sorted(origins.items()) if origin]
    if len(parts) < 2 or not foreign:
        return ()
    return (
        f"what cuts cost was measured elsewhere: {', '.join(foreign)}; it is corrected by what was measured here "
        "(`trisect profile --networks 4m` measures it here)",
    )


def separate_cores_note(inputs: ProblemInputs, problem: Problem, parts: Sequence[Part], value: float) -> list[str]:
    """Predict the throughput when each CPU engine gets its own cores, instead of all competing for all."""
    costs = inputs.costs
    slowdowns = costs.slowdowns("processes") if costs.is_measured else {}
    loads = loads_s(problem, parts)
    measured_pairs = [pair for pair in slowdowns if set(pair) <= loads.keys()]
    if problem.objective != "throughput" or not measured_pairs or value <= 0:
        return []
    period_s = max(CoreSharing(slowdowns, is_pinned=True).busy_s(loads).values())
    return [
        f"engines on the same cores slow each other, as measured: predicted are {1 / value:.4g} items a "
        f"second in threads, and {1 / period_s:.4g} in processes on cores of their own"
    ]


def _deviation(variance: float, wakeups_s: float, total_s: float, pace: float) -> float:
    """Return the relative standard deviation of a time, of which engines wake up for a part."""
    variance += (_WAKEUP_DEVIATION * wakeups_s) ** 2
    return hypot(sqrt(max(variance, 0.0)) / max(total_s, 1e-12), pace)


def _interval(value: float, deviation: float) -> tuple[float, float] | None:
    factor = exp(_QUANTILE * deviation)
    return (value / factor, value * factor) if value > 0 and deviation > 0 else None
