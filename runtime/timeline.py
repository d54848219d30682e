"""A timeline of events on devices: the one shape of what was predicted and of what was measured.

A `Schedule` (predicted, made by the scheduler) and a `Trace` (measured, made by a `Session`) are both this, so that
the two can be laid side by side, exported and drawn by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "predicted"]


@dataclass(frozen=True)
class Event:
    """Something that occupied a device or a link for a while."""

    name: str
    """Segment, tensor or phase."""
    kind: Literal["compute", "transfer", "convert"]
    device: str
    """Device id; for a transfer the receiving one."""
    start_s: float
    end_s: float
    item: int = 0
    """Which input of a stream."""
    size_bytes: int = 0

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Timeline:
    """Events with their totals; `source` says whether they were measured or predicted.

    Examples
    --------
    >>> Timeline.of([Event("a", "compute", "cpu:ort", 0.0, 0.002)], source="measured").latency_s
    0.002
    """

    events: tuple[Event, ...]
    source: Source
    latency_s: float
    """First start to last end of one item (the median item in a stream)."""
    throughput_hz: float
    energy_j: float | None = None
    """None where nobody measured or modelled it."""
    peak_bytes: dict[str, int] | None = None
    """Per device id, where known."""

    @classmethod
    def of(cls, events: list[Event], source: Source, **totals: Any) -> Timeline:
        """Make a timeline and derive latency and throughput from its events."""
        spans: dict[int, tuple[float, float]] = {}
        for e in events:
            lo, hi = spans.get(e.item, (e.start_s, e.end_s))
            spans[e.item] = (min(lo, e.start_s), max(hi, e.end_s))
        durations = sorted(hi - lo for lo, hi in spans.values())
        latency = durations[len(durations) // 2] if durations else 0.0
        whole = max((hi for _, hi in spans.values()), default=0.0) - min((lo for lo, _ in spans.values()), default=0.0)
        totals.setdefault("latency_s", latency)
        totals.setdefault("throughput_hz", len(spans) / whole if whole > 0 else 0.0)
        return cls(events=tuple(events), source=source, **totals)

    def chrome_trace(self) -> list[dict[str, Any]]:
        """Events in Chrome's trace format (microseconds), to open in Perfetto."""
        return [
            {
                "name": e.name,
                "cat": e.kind,
                "ph": "X",
                "ts": e.start_s * 1e6,
                "dur": e.duration_s * 1e6,
                "pid": self.source,
                "tid": e.device,
                "args": {"item": e.item, "size_bytes": e.size_bytes},
            }
            for e in self.events
        ]


Trace = Timeline
Schedule = Timeline
