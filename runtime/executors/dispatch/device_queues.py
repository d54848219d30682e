"""A plan assembled on its hosts: for each device a lane, which is a queue and the thread that works it off.

When a device is lost for good a whole new assembly takes the place of the old one.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from ...errors import TrisectError
from ...plans.plan import Plan
from .hosts import Crew, Host
from .tensor_flow import Flow


class Lane:
    """One device's work: what is ready, oldest item first, and who is on it. Guarded by the dispatcher's lock."""

    def __init__(self, device: str, host: Host, lock: threading.Lock) -> None:
        self.device = device
        self.host = host
        self.ready: list[tuple[int, int]] = []
        """Tickets of items and indexes of segments, as a heap."""
        self.wake = threading.Condition(lock)
        self.busy = False
        """Somebody runs a segment here: the lane's thread, or a caller that lends its own."""
        self.stopping = False
        self.deadline_s: float | None = None
        """When the run at hand counts as hanging."""
        self.running: int | None = None
        """Index of the segment at hand."""
        self.hangs = False
        """Its run is being ended for taking too long."""
        self.abandoned = False
        """Its thread hangs where nothing can end it: nobody waits for it, and what it gives is dropped."""
        self.fault: Fault | None = None
        """What the lane's thread has to recover from before anything else."""
        self.losses = 0
        """Faults since a run last succeeded."""
        self.gone: TrisectError | None = None
        """Why the device is lost for good."""
        self.thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether a caller may take the device now."""
        return not (self.busy or self.ready or self.fault or self.gone or self.stopping)

    def push(self, ticket: int, index: int) -> None:
        """Queue a segment of an item."""
        heapq.heappush(self.ready, (ticket, index))
        if not self.busy:
            self.wake.notify()

    def release(self) -> None:
        """Let the next one have the device."""
        self.busy = False
        self.deadline_s = None
        if self.ready or self.fault is not None or self.stopping:
            self.wake.notify()

    def stop(self) -> None:
        """Have the lane's thread close the host and end."""
        self.stopping = True
        self.wake.notify()


@dataclass(frozen=True)
class Fault:
    """A run that was lost with its worker."""

    error: TrisectError
    ticket: int
    index: int


class Assembly:
    """A plan with its crew and a lane per device.

    Parameters
    ----------
    plan : Plan
    crew : Crew
    lock : Lock
        The dispatcher's.
    work : callable
        What a lane's thread does between the opening and the closing of its host.

    Raises
    ------
    EngineFailed
        Where a host cannot load its segments; everything is closed again then.
    """

    def __init__(
        self,
        plan: Plan,
        flow: Flow,
        crew: Crew,
        lock: threading.Lock,
        work: Callable[[Assembly, Lane], None],
    ) -> None:
        self.plan = plan
        self.flow = flow
        self.crew = crew
        self.lanes = {device: Lane(device, host, lock) for device, host in crew.hosts.items()}
        self._every = tuple(self.lanes.values())
        self.replacing = False
        """Another assembly is being made to take this one's place: items may still come."""
        self.lane_of = {index: self.lanes[segment.device] for index, segment in flow.segments.items()}
        self._lock = lock
        self._alive = len(self.lanes)
        opened: dict[str, Future[None]] = {device: Future() for device in self.lanes}
        for device, lane in self.lanes.items():
            arguments = (lane, opened[device], work)
            lane.thread = threading.Thread(target=self._live, args=arguments, name=f"trisect {device}", daemon=True)
            lane.thread.start()
        if not self.lanes:
            crew.close()
        try:
            for future in opened.values():
                future.result()
        except BaseException:
            self.stop()
            self.join()
            raise

    def stop(self) -> None:
        """Have all lanes end after what they are doing."""
        with self._lock:
            self.stop_locked()

    def stop_locked(self) -> None:
        """As `stop`, for who holds the lock."""
        for lane in self.lanes.values():
            lane.stop()

    def join(self) -> None:
        """Wait for the lanes to end, but not for one that hangs."""
        for lane in self.lanes.values():
            while lane.thread is not None and lane.thread.is_alive() and not lane.abandoned:
                if lane.thread is threading.current_thread():
                    break
                lane.thread.join(0.2)

    @property
    def lost(self) -> TrisectError | None:
        """Why this assembly can take no more items; None where it can."""
        for lane in self._every:  # on each item's way
            if lane.gone is not None:
                return lane.gone
        return None

    def _live(self, lane: Lane, opened: Future[None], work: Callable[[Assembly, Lane], None]) -> None:
        try:
            try:
                lane.host.open()
            except BaseException as error:  # whoever opened the assembly raises it
                opened.set_exception(error)
                return
            opened.set_result(None)
            work(self, lane)
        finally:
            lane.host.close()
            with self._lock:
                self._alive -= 1
                last = self._alive == 0
            if last:
                self.crew.close()
