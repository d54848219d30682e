"""A timeline of events on devices, predicted or measured.

A `Schedule` (predicted by the scheduler) and a `Trace` (measured by a `Session`) have the same type, so that they are
compared, exported and drawn by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "predicted"]
PeakBasis = Literal["measured factors", "weights and tensors"]
"""Basis of a predicted memory peak: the bytes of weights and tensors, or these times the factors that were measured for
the engine (memory per byte and per segment)."""
Incident = Literal["fault", "restart", "replan"]
"""What a session recovered from: a crashed or hanging worker, its restart, a new plan without its device."""

EventKind = Literal["compute", "transfer", "convert"] | Incident
EventRow = tuple[str, EventKind, str, float, float, int, int]
"""The fields of an `Event`, recorded while segments run: constructing an `Event` takes longer."""


@dataclass(frozen=True)
class Event:
    """A period in which a device or a link was busy."""

    name: str
    """Segment, tensor or phase; a description of an incident."""
    kind: EventKind
    """``convert`` is a copy into another dtype, layout or memory: before or after the computation, or within it."""
    device: str
    """Device id; for a transfer the receiving one; for a conversion the one that reads the copy."""
    start_s: float
    end_s: float
    item: int = 0
    """Index in a stream."""
    size_bytes: int = 0

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Timeline:
    """Events with their totals, measured or predicted.

    Examples
    --------
    >>> Timeline.of([Event("a", "compute", "cpu:ort", 0.0, 0.002)], source="measured").latency_s
    0.002
    """

    events: tuple[Event, ...]
    source: Source
    latency_s: float
    """First start to last end of one item (the median item in a stream); predicted: with what a session adds."""
    throughput_hz: float
    energy_j: float | None = None
    """None where it was neither measured nor modelled."""
    peak_bytes: dict[str, int] | None = None
    """Per device id, where known."""
    peak_basis: dict[str, PeakBasis] | None = None
    """Per device id, the basis of a predicted peak."""
    latency_interval_s: tuple[float, float] | None = None
    """Contains the measured latency with 90 % probability; None where that is not known, or it was measured."""
    segment_intervals_s: dict[str, tuple[float, float]] | None = None
    """The same for the duration of a compute event, by its name."""

    @classmethod
    def of(cls, events: list[Event], source: Source, **totals: Any) -> Timeline:
        """Return a timeline with latency and throughput derived from its events."""
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

    def chrome_trace(self, process: int = 1, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events in Chrome's trace format (microseconds), to open in Perfetto.

        Parameters
        ----------
        process : int
            Process number; timelines that are shown together need different ones.
        name : str, optional
            Title of the process; by default the timeline's source.

        Examples
        --------
        >>> Timeline.of([Event("a", "compute", "cpu:ort", 0.0, 0.002)], "measured").chrome_trace()[-1]["dur"]
        2000.0
        """
        tracks = {device: number for number, device in enumerate(dict.fromkeys(e.device for e in self.events), 1)}
        rows = [_trace_name("process_name", process, 0, name or self.source)]
        rows += [_trace_name("thread_name", process, number, device) for device, number in tracks.items()]
        for number, e in enumerate(self.events):
            fields = {"name": e.name, "cat": e.kind, "ts": e.start_s * 1e6, "pid": process, "tid": tracks[e.device]}
            args = {"item": e.item, "size_bytes": e.size_bytes}
            if e.kind == "compute":
                rows.append({**fields, "ph": "X", "dur": e.duration_s * 1e6, "args": args})
                continue
            # Transfers overlap with computation and with each other, which is not allowed for slices of one track.
            rows.append({**fields, "ph": "b", "id": f"{process}.{number}", "args": args})
            rows.append({**fields, "ph": "e", "id": f"{process}.{number}", "ts": e.end_s * 1e6})
        return rows


def _trace_name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


Trace = Timeline
Schedule = Timeline
