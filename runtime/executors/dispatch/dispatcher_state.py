"""What the dispatcher and its recovery both work on: the assembly at hand, items in flight, and one lock for all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import EngineFailed
from ...plans.timeline import Event, Incident
from .. import Settings
from .device_queues import Assembly, Lane
from .in_flight_items import Board

_INCIDENTS = 10_000


class Task(NamedTuple):
    """A segment of an item, to run on its lane."""

    assembly: Assembly
    ticket: int
    segment: int


class Desk:
    """State of a session at work. Names that end in ``_locked`` are for who holds the lock."""

    assembly: Assembly

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_s = time.perf_counter()
        self.lock = threading.Lock()
        self.board = Board()
        self.closed = False
        self.retired: list[Assembly] = []
        """Assemblies whose place another took: they end by themselves, a moment later."""
        self.incidents: deque[Event] = deque(maxlen=_INCIDENTS)

    def refuse_if_over(self) -> None:
        """Say why no more items can be taken, where none can.

        Raises
        ------
        EngineFailed
            For a session that was closed.
        DeviceLost
            For one that lost a device for good.
        """
        if self.closed:
            raise EngineFailed("the session is closed", remedy="open it again")
        lost = self.assembly.lost
        if lost is not None and not self.assembly.replacing:
            raise type(lost)(lost.message, remedy=lost.remedy)

    def distribute_locked(self, assembly: Assembly, ticket: int, ready: Iterable[int], *, lend: bool) -> Task | None:
        """Queue segments on their lanes; one of them goes to a caller that lends its thread, if a device is idle."""
        mine = None
        for index in ready:
            lane = assembly.lane_of[index]
            if lend and mine is None and lane.idle and (lane.host.can_kill or self.settings.timeout_s is None):
                lane.busy = True
                mine = Task(assembly, ticket, index)
            else:
                lane.push(ticket, index)
        return mine

    def end(self, lane: Lane, ticket: int, error: BaseException) -> None:
        """Give up an item, and its lane to the next one."""
        with self.lock:
            item = self.board.remove(ticket)
            lane.release()
        if item is not None:
            item.future.set_exception(error)

    def note(self, kind: Incident, device: str, text: str, item: int = 0, start_s: float | None = None) -> None:
        """Add an incident to the record."""
        now_s = time.perf_counter() - self.started_s
        began_s = now_s if start_s is None else start_s - self.started_s
        with self.lock:
            self.incidents.append(Event(text, kind, device, began_s, now_s, item))
