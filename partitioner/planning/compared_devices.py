"""Compares a plan with each of its devices alone, by predictions where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence

from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_comparison import ComparedTime, PlanComparison

from ..costs.plan_prediction import predict_plan
from ..problem.problem_builder import ProblemInputs
from ..segments.boundary_layouts import nhwc_boundaries
from ..segments.pieces import pieces_of_parts
from .candidate_placements import single_candidate
from .final_turns import MeasuredContender

_DEVICES_MAX = 16
"""Of a plan for more devices, what each of them would take alone is not predicted."""


def predicted_comparison(inputs: ProblemInputs, plan: Plan) -> PlanComparison | None:
    """Return the predicted times of a plan and of each device alone; None for objectives that are no times."""
    if inputs.objective not in ("latency", "throughput") or len(inputs.devices) > _DEVICES_MAX:
        return None
    return PlanComparison(
        _alone(inputs, {}), ComparedTime(_name(plan), plan.value, "predicted", plan.interval), _is_split(plan)
    )


def measured_comparison(
    inputs: ProblemInputs,
    chosen: MeasuredContender,
    alone: Sequence[MeasuredContender],
    *,
    noise: float | None,
    splits_run: int,
) -> PlanComparison:
    """Return the measured times of a plan and of each device alone; predicted ones of devices that did not run alone.

    Parameters
    ----------
    alone : sequence of MeasuredContender
        Plans of one device that ran.
    noise, splits_run
        As of `PlanComparison`.
    """
    measured = {c.device: ComparedTime(f"{c.device} alone", c.measured_s, "measured") for c in alone}
    rows = _alone(inputs, measured) if len(inputs.devices) <= _DEVICES_MAX else tuple(measured.values())
    plan = ComparedTime(_name(chosen.plan), chosen.measured_s, "measured")
    return PlanComparison(rows, plan, _is_split(chosen.plan), noise, splits_run)


def predict_alone(inputs: ProblemInputs, device_id: str) -> tuple[float, tuple[float, float] | None] | None:
    """Predict the objective of a device that runs the whole model, as the segments of a plan are predicted.

    Returns
    -------
    value : float
    interval : (float, float), optional
        See `PlanPrediction.interval`.
        None instead of both where the device cannot or must not run the whole model.
    """
    single = single_candidate(inputs.problem, device_id)
    if single is None:
        return None
    pieces = pieces_of_parts(inputs.graph, inputs.problem.graph, single.parts)
    nhwc_tensors = nhwc_boundaries(inputs.graph, pieces, inputs.devices)
    prediction = predict_plan(inputs, inputs.problem, single.parts, pieces, nhwc_tensors)
    value, _ = prediction.evaluate(single.parts, inputs.session_overhead_s)
    return value, prediction.interval(value)


def _alone(inputs: ProblemInputs, measured: dict[str, ComparedTime]) -> tuple[ComparedTime, ...]:
    rows = []
    for device_id in inputs.problem.device_ids:
        if device_id in measured:
            rows.append(measured[device_id])
        elif (prediction := predict_alone(inputs, device_id)) is not None:
            value, interval = prediction
            rows.append(ComparedTime(f"{device_id} alone", value, "predicted", interval))
    return tuple(rows)


def _name(plan: Plan) -> str:
    return "this split" if _is_split(plan) else "this plan"


def _is_split(plan: Plan) -> bool:
    return len(plan.used_devices) > 1
