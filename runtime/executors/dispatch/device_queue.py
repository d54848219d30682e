"""The queue of segments that are ready to run on one device."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass

from ...errors import TrisectError
from .host import Host


@dataclass(frozen=True)
class LostRun:
    """A segment whose run ended with the death of its worker."""

    error: TrisectError
    ticket: int
    """Of the item."""
    segment: int


class DeviceQueue:
    """Segments ready to run on one device, oldest item first, and the state of the device.

    All attributes are guarded by the dispatcher's lock.
    """

    def __init__(self, device: str, host: Host, lock: threading.Lock) -> None:
        self.device = device
        self.host = host
        self.ready: list[tuple[int, int]] = []
        """Heap of item ticket and segment index."""
        self.wake_up = threading.Condition(lock)
        self.busy = False
        """A thread runs a segment on the device: the queue's own, or that of a caller."""
        self.stopping = False
        self.deadline_s: float | None = None
        """When the current run is considered hanging."""
        self.running: int | None = None
        """Index of the current segment."""
        self.hanging = False
        """The current run is being ended because it exceeded its time limit."""
        self.abandoned = False
        """The thread hangs and cannot be ended: it is not waited for, and its result is ignored."""
        self.lost_run: LostRun | None = None
        """What the queue's thread has to recover from before it runs anything else."""
        self.losses = 0
        """Workers lost since a run last succeeded."""
        self.lost: TrisectError | None = None
        """Why the device is lost for good."""
        self.thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether a caller's thread may run a segment on the device now."""
        return not (self.busy or self.ready or self.lost_run or self.lost or self.stopping)

    def push(self, ticket: int, segment: int) -> None:
        """Add a segment of an item."""
        heapq.heappush(self.ready, (ticket, segment))
        if not self.busy:
            self.wake_up.notify()

    def pop(self) -> tuple[int, int]:
        """Remove and return the ticket of the oldest item, and its segment."""
        return heapq.heappop(self.ready)

    def release(self) -> None:
        """Mark the device as free and wake up its thread if there is work."""
        self.busy = False
        self.deadline_s = None
        if self.ready or self.lost_run is not None or self.stopping:
            self.wake_up.notify()

    def stop(self) -> None:
        """Make the queue's thread close the host and end."""
        self.stopping = True
        self.wake_up.notify()
