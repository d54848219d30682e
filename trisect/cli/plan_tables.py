"""Plans as the tables and lines that commands print."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING

from .quantities import duration, interval_text, quantity, size

if TYPE_CHECKING:
    from trisect.runtime.plans.plan import Plan
    from trisect.runtime.plans.plan_parts import Transfer

    from ..measured_runs import MeasuredTimes

TOTAL = "total"
"""The row of `run_table` after those of the segments."""

INTERVAL = "90 % interval"
"""The column of intervals, which is left out where none is known."""

_Rows = list[tuple[str, ...]]


def certificate(plan: Plan) -> str:
    """Return a plan's predicted objective with its interval, the proven bound, and the gap between them."""
    text = f"predicted {plan.objective} {quantity(plan.value, plan.objective, plan.interval)}"
    if plan.bound <= 0:
        return f"{text}; no bound is known"
    # The time per item has a lower bound, items per second an upper one.
    kind = "upper" if plan.objective == "throughput" else "lower"
    by = f" ({plan.bound_by})" if plan.bound_by else ""
    gap = f", gap {plan.gap:.1%}" if isfinite(plan.gap) else ""
    return f"{text}; {kind} bound {quantity(plan.bound, plan.objective)}{by}{gap}"


def comparison_lines(plan: Plan) -> list[str]:
    """Return the time of each device alone and of the plan, and whether splitting pays; nothing where not compared."""
    if plan.comparison is None:
        return []
    rows = [
        f"{row.what}: {quantity(row.seconds, plan.objective, row.interval)}, {row.source}"
        for row in plan.comparison.rows
    ]
    return [*rows, plan.comparison.summary]


def segment_table(plan: Plan) -> tuple[list[str], _Rows]:
    """Return the columns and rows of a plan's segments, with the number and size of the tensors at their boundaries."""
    rows: _Rows = []
    for segment in plan.segments:
        arriving = [t for t in plan.transfers if t.target == segment.index]
        leaving = [t for t in plan.transfers if t.source == segment.index]
        rows.append(
            (str(segment.index), segment.device, str(len(segment.nodes)), _tensors(arriving), _tensors(leaving))
        )
    return ["segment", "device", "nodes", "inputs", "outputs"], rows


def _tensors(transfers: Iterable[Transfer]) -> str:
    """Return the number and size of tensors, and the name of the first one."""
    sizes_bytes = {transfer.tensor: transfer.size_bytes for transfer in transfers}
    if not sizes_bytes:
        return "-"
    return f"{len(sizes_bytes)}, {size(sum(sizes_bytes.values()))}: {next(iter(sizes_bytes))}"


def run_table(plan: Plan, measured: MeasuredTimes) -> tuple[list[str], _Rows]:
    """Return the columns and rows of a run: for each segment and in total what was measured and what was predicted."""
    outside = outside_interval(plan, measured) or ()
    intervals_s, predicted_s = _intervals_s(plan), predicted_segments_s(plan)
    devices = {f"segment {segment.index}": segment.device for segment in plan.segments}
    figures = [(name, device, measured.segments_s.get(name), predicted_s.get(name)) for name, device in devices.items()]
    rows: _Rows = [
        (
            name,
            device,
            duration(measured_s),
            duration(time_s),
            interval_text(intervals_s.get(name), time_s),
            "outside" if name in outside else "",
        )
        for name, device, measured_s, time_s in [*figures, (TOTAL, "", measured.latency_s, plan.predicted.latency_s)]
    ]
    return ["", "device", "measured", "predicted", INTERVAL, "measured is"], rows


def outside_interval(plan: Plan, measured: MeasuredTimes) -> list[str] | None:
    """Return the rows of `run_table` whose measured time is outside of its interval; None where none is known."""
    intervals_s, times_s = _intervals_s(plan), {**measured.segments_s, TOTAL: measured.latency_s}
    if not intervals_s:
        return None
    return [name for name, (low, high) in intervals_s.items() if name in times_s and not low <= times_s[name] <= high]


def predicted_segments_s(plan: Plan) -> dict[str, float]:
    """Return the predicted time of each segment for one item, by its name in the timeline."""
    return {e.name: e.duration_s for e in plan.predicted.events if e.kind == "compute" and e.item == 0}


def _intervals_s(plan: Plan) -> dict[str, tuple[float, float]]:
    intervals_s = dict(plan.predicted.segment_intervals_s or {})
    if plan.predicted.latency_interval_s is not None:
        intervals_s[TOTAL] = plan.predicted.latency_interval_s
    return intervals_s
