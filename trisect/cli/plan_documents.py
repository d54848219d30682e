"""Plans and timelines as the JSON documents that ``--json`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        "bound": plan.bound,
        "bound_by": plan.bound_by,
        "gap": plan.gap,
        "notes": plan.notes,
        "constraints": dict(plan.constraints),
        "time_limit_s": plan.time_limit_s,
        "machine": plan.machine,
    }


def timeline_document(timeline: Timeline) -> dict[str, Any]:
    """Return a schedule or a trace as a JSON document."""
    return {
        "source": timeline.source,
        "latency_s": timeline.latency_s,
        "throughput_hz": timeline.throughput_hz,
        "energy_j": timeline.energy_j,
        "peak_bytes": timeline.peak_bytes,
        "peak_basis": timeline.peak_basis,
        "events": timeline.events,
    }
