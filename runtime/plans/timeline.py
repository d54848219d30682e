"""A timeline of events on devices: the one shape of what was predicted and of what was measured.

A `Schedule` (predicted, made by the scheduler) and a `Trace` (measured, made by a `Session`) are both this, so that
the two can be laid side by side, exported and drawn by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "predicted"]
PeakBasis = Literal["measured factors", "weights and tensors"]
"""What a prediction of memory counts: weights and tensors times what the engine was measured to take for each byte and
each segment, or only as they are."""
Incident = Literal["fault", "restart", "replan"]
"""What a session survived: a worker that died or hung, its return, a new plan without its device."""


EventKind = Literal["compute", "transfer", "convert"] | Incident
EventRow = tuple[str, EventKind, str, float, float, int, int]
"""An event's fields, as they are noted while things happen: making an `Event` takes longer."""


@dataclass(frozen=True)
class Event:
    """Something that occupied a device or a link for a while."""

    name: str
    """Segment, tensor or phase; of an incident, what happened."""
    kind: EventKind
    """A conversion is a copy into another dtype, layout or memory: beside computing, or within it where the engine's
    own call needs it."""
    device: str
    """Device id; for a transfer the receiving one; for a conversion the one that needed it."""
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
    peak_basis: dict[str, PeakBasis] | None = None
    """Per device id, what a predicted peak was made of."""

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

    def chrome_trace(self, process: int = 1, name: str | None = None) -> list[dict[str, Any]]:
        """Events in Chrome's trace format (microseconds), to open in Perfetto.

        Parameters
        ----------
        process : int
            Number of the group of tracks; timelines that are shown together need different ones.
        name : str, optional
            Its title; the timeline's source when left out.

        Examples
        --------
        >>> Timeline.of([Event("a", "compute", "cpu:ort", 0.0, 0.002)], "measured").chrome_trace()[-1]["dur"]
        2000.0
        """
        tracks = {device: number for number, device in enumerate(dict.fromkeys(e.device for e in self.events), 1)}
        found = [_trace_name("process_name", process, 0, name or self.source)]
        found += [_trace_name("thread_name", process, number, device) for device, number in tracks.items()]
        for number, e in enumerate(self.events):
            told = {"name": e.name, "cat": e.kind, "ts": e.start_s * 1e6, "pid": process, "tid": tracks[e.device]}
            args = {"item": e.item, "size_bytes": e.size_bytes}
            if e.kind == "compute":
                found.append({**told, "ph": "X", "dur": e.duration_s * 1e6, "args": args})
                continue
            # Transfers run beside computing and beside each other, which slices of one track must not.
            found.append({**told, "ph": "b", "id": f"{process}.{number}", "args": args})
            found.append({**told, "ph": "e", "id": f"{process}.{number}", "ts": e.end_s * 1e6})
        return found


def _trace_name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


Trace = Timeline
Schedule = Timeline
