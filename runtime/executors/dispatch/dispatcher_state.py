"""The state that the dispatcher and its recovery share: the loaded plan, the items in flight, and one lock for all."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ...errors import EngineFailed
from ...plans.timeline import Event, Incident
from .device_queue import DeviceQueue
from .execution import ExecutorSettings
from .in_flight_items import InFlightItems
from .loaded_plan import LoadedPlan

_INCIDENTS_MAX = 10_000

log = logging.getLogger(__name__)


class SegmentTask(NamedTuple):
    """A segment of an item, to run on the device of its queue."""

    loaded: LoadedPlan
    ticket: int
    segment: int


class DispatcherState:
    """State of a running dispatcher. Methods whose names end in ``_locked`` are called with the lock held."""

    loaded: LoadedPlan
    """The plan in use."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self.settings = settings
        self.started_s = time.perf_counter()
        self.lock = threading.Lock()
        self.items = InFlightItems()
        self.closed = False
        self.retired: list[LoadedPlan] = []
        """Plans that were replaced; their threads end a moment later."""
        self.incident_count = 0
        self._incidents: deque[Event] = deque(maxlen=_INCIDENTS_MAX)

    def check_accepts_items(self) -> None:
        """Check that the plan in use can compute items.

        Raises
        ------
        EngineFailed
            For a session that was closed.
        DeviceLost
            For one that lost a device for good.
        """
        if self.closed:
            raise EngineFailed("the session is closed", remedy="open it again")
        lost = self.loaded.lost
        if lost is not None and not self.loaded.replacing:
            raise lost.with_message(lost.message)

    def enqueue_locked(
        self, loaded: LoadedPlan, ticket: int, segments: Iterable[int], *, by_caller: bool
    ) -> SegmentTask | None:
        """Add an item's segments that can run to the queues of their devices.

        Where the calling thread can run one itself, it gets one whose device is idle, and reserved for it.
        """
        task = None
        for index in segments:
            queue = loaded.queue_of[index]
            can_end = queue.host.can_kill or self.settings.timeout_s is None
            if by_caller and task is None and queue.idle and can_end:
                queue.busy = True
                task = SegmentTask(loaded, ticket, index)
            else:
                queue.push(ticket, index)
        return task

    def fail_item(self, queue: DeviceQueue, ticket: int, error: BaseException) -> None:
        """End an item with an error and release the device that worked on it."""
        with self.lock:
            item = self.items.remove(ticket)
            queue.release()
        if item is not None:
            item.future.set_exception(error)

    def add_incident(self, kind: Incident, device: str, text: str, item: int = 0, start_s: float | None = None) -> None:
        """Record an incident that ends now."""
        log.info("%s on %s: %s", kind, device, text)
        now_s = time.perf_counter() - self.started_s
        begin_s = now_s if start_s is None else start_s - self.started_s
        with self.lock:
            self._incidents.append(Event(text, kind, device, begin_s, now_s, item))
            self.incident_count += 1

    def incidents(self, since: int) -> tuple[Event, ...]:
        """Return the incidents after the first ``since`` ones, as far as they are still stored."""
        with self.lock:
            dropped = self.incident_count - len(self._incidents)
            return tuple(islice(self._incidents, max(0, since - dropped), None))
