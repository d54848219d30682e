"""Plans and timelines as the JSON documents that ``--json`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trisect.runtime.plans.check_result import PlanCheck
    from trisect.runtime.plans.plan import Plan
    from trisect.runtime.plans.timeline import Timeline


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as a JSON document."""
    return {
        "model": plan.model,
        "folder": plan.folder,
        "strategy": plan.strategy,
        "objective": plan.objective,
        "seed": plan.seed,
        "shapes": dict(plan.shapes),
        "devices": plan.devices,
        "placement": dict(plan.placement),
        "segments": plan.segments,
        "transfers": plan.transfers,
        "predicted": timeline_document(plan.predicted),
        "value": plan.value,
        "interval": plan.interval,
        "bound": plan.bound,
        "bound_by": plan.bound_by,
        "gap": plan.gap,
        "notes": plan.notes,
        "comparison": _comparison_document(plan) if plan.comparison is not None else None,
        "verified": _check_document(plan.verified) if plan.verified is not None else None,
        "constraints": dict(plan.constraints),
        "time_limit_s": plan.time_limit_s,
        "machine": plan.machine,
    }


def _comparison_document(plan: Plan) -> dict[str, Any]:
    comparison = plan.comparison
    assert comparison is not None
    rows: list[dict[str, Any]] = [
        {"what": row.what, "seconds": row.seconds, "source": row.source, "interval": row.interval}
        for row in comparison.rows
    ]
    if plan.objective == "throughput":
        rows = [{**row, "items_per_s": 1 / row["seconds"] if row["seconds"] > 0 else None} for row in rows]
    return {
        "rows": rows,
        "gain": comparison.gain,
        "noise": comparison.noise,
        "splits_run": comparison.splits_run,
        "summary": comparison.summary,
    }


def _check_document(check: PlanCheck) -> dict[str, Any]:
    return {
        "ok": check.ok,
        "max_abs": check.max_abs,
        "max_rel": check.max_rel,
        "tolerance": check.tolerance,
        "reference": check.reference,
        "skipped_reason": check.skipped_reason,
    }


def timeline_document(timeline: Timeline) -> dict[str, Any]:
    """Return a schedule or a trace as a JSON document."""
    return {
        "source": timeline.source,
        "latency_s": timeline.latency_s,
        "latency_interval_s": timeline.latency_interval_s,
        "segment_intervals_s": timeline.segment_intervals_s,
        "throughput_hz": timeline.throughput_hz,
        "energy_j": timeline.energy_j,
        "peak_bytes": timeline.peak_bytes,
        "peak_basis": timeline.peak_basis,
        "events": timeline.events,
    }
