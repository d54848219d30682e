"""Records what a session runs, for its trace."""

from __future__ import annotations

from collections import deque
from itertools import starmap

from ..executors import Dispatcher, ItemResult
from ..plans.timeline import Event, EventRow, Timeline, Trace

_EVENTS_MAX = 100_000
"""Of a longer stream only the last events are stored, so that a stream may run without end."""


class TraceRecorder:
    """The events of the last run or stream of an executor."""

    def __init__(self, executor: Dispatcher) -> None:
        self._executor = executor
        self._events: deque[EventRow] = deque(maxlen=_EVENTS_MAX)
        self._incidents_before = 0

    def restart(self) -> None:
        """Begin the trace of another run."""
        self._events.clear()
        self._incidents_before = self._executor.incident_count

    def record(self, result: ItemResult) -> None:
        """Add the events of an item."""
        self._events.extend(result.events)

    def trace(self) -> Trace:
        """Return the events of all items since `restart`, with the incidents in between."""
        peak_bytes = dict(self._executor.peak_bytes())
        events = [*starmap(Event, tuple(self._events)), *self._executor.incidents(self._incidents_before)]
        return Timeline.of(events, source="measured", peak_bytes=peak_bytes or None)
