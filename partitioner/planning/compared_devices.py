"""Compares a plan with each of its devices alone, by predictions where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence

from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_comparison import ComparedTime, PlanComparison
from trisect.scheduler.problem.problem import Problem

from .candidate_placements import single_candidates
from .final_turns import MeasuredContender

_DEVICES_MAX = 16
"""Of a plan for more devices, what each of them would take alone is not predicted."""


def predicted_comparison(problem: Problem, plan: Plan) -> PlanComparison | None:
    """Return the predicted times of a plan and of each device alone; None for objectives that are no times."""
    if problem.objective not in ("latency", "throughput") or len(problem.devices) > _DEVICES_MAX:
        return None
    alone = tuple(_alone(problem, {}).values())
    return PlanComparison(alone, ComparedTime(_name(plan), plan.value, "predicted", plan.interval), _is_split(plan))


def measured_comparison(
    problem: Problem,
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
    rows = _alone(problem, measured) if len(problem.devices) <= _DEVICES_MAX else measured
    plan = ComparedTime(_name(chosen.plan), chosen.measured_s, "measured")
    return PlanComparison(tuple(rows.values()), plan, _is_split(chosen.plan), noise, splits_run)


def _alone(problem: Problem, known: dict[str, ComparedTime]) -> dict[str, ComparedTime]:
    predicted = {
        device: ComparedTime(f"{device} alone", candidate.value, "predicted")
        for device, candidate in single_candidates(problem).items()
    }
    rows = {**predicted, **known}
    return {device: rows[device] for device in problem.device_ids if device in rows}


def _name(plan: Plan) -> str:
    return "this split" if _is_split(plan) else "this plan"


def _is_split(plan: Plan) -> bool:
    return len(plan.used_devices) > 1
