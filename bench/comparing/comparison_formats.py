"""Export of a comparison: flat rows and CSV, Markdown, and a trace for Perfetto."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import count
from typing import Any

from ..table_text import csv_cell, markdown_cell
from .comparison import Comparison

_NESTED = ("predicted", "trace", "placement")


def as_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield one flat row for each result: the fields of `ComparisonResult`, and the predictions."""
    for result in comparison.results:
        row = {field.name: getattr(result, field.name) for field in fields(result) if field.name not in _NESTED}
        schedule = result.predicted
        interval_s = (schedule.latency_interval_s if schedule is not None else None) or (None, None)
        yield row | {
            "also": " ".join(result.also),
            "devices": " ".join(result.devices),
            "predicted_latency_s": schedule.latency_s if schedule is not None else None,
            "predicted_latency_low_s": interval_s[0],
            "predicted_latency_high_s": interval_s[1],
            "predicted_throughput_hz": schedule.throughput_hz if schedule is not None else None,
            "predicted_energy_j": schedule.energy_j if schedule is not None else None,
        }


def as_csv(comparison: Comparison) -> str:
    """Return one line for each result; missing values are empty."""
    rows = list(as_rows(comparison))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Examples
    --------
    >>> print(as_markdown(["name"], [("a|b",)]), end="")
    | name |
    | --- |
    | a\\|b |
    """
    lines = [columns, ["---"] * len(columns), *(map(markdown_cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_trace(comparison: Comparison) -> dict[str, Any]:
    """Return the predicted and measured timelines of all results in Chrome's trace format, which Perfetto reads."""
    events: list[dict[str, Any]] = []
    process_ids = count(1)
    for result in comparison.results:
        for timeline in (result.predicted, result.trace):
            if timeline is not None and result.failed is None:
                events += timeline.chrome_trace(next(process_ids), f"{result.name}, {timeline.source}")
    return {"traceEvents": events, "displayTimeUnit": "ms"}
