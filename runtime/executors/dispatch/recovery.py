"""What happens when a device fails: its worker is started again, or its work goes elsewhere, or the items are told.

A worker that dies is started again and its call made again; one that dies of the same call twice costs that item only;
one that keeps dying is lost for good, and the items in flight begin again under a new plan where there is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...errors import DeviceLost, EngineFailed, InvalidPlan, TrisectError
from ...plans.plan import Plan
from ...plans.plan_parts import Segment
from .device_queues import Assembly, Fault, Lane
from .dispatcher_state import Desk
from .in_flight_items import Item
from .tensor_flow import described

_ATTEMPTS = 2
"""How many workers one call may cost before it is taken for the cause."""


class Recovery:
    """Brings a session back to work; see the module."""

    def __init__(self, desk: Desk, assemble: Callable[[Plan], Assembly]) -> None:
        self._desk = desk
        self._assemble = assemble
        self._replanning = threading.Lock()
        self._lost: list[str] = []

    def recover(self, assembly: Assembly, lane: Lane, fault: Fault) -> None:
        """Bring a device back after its worker died, on the lane's own thread; or give it up."""
        desk = self._desk
        error: TrisectError = fault.error
        segment = assembly.flow.segments[fault.index]
        if lane.hangs:
            error = self._hanging(segment)
            lane.hangs = False
        with desk.lock:
            item = desk.board.items.get(fault.ticket)
            number = item.number if item is not None else 0
            if item is not None:
                item.attempts[fault.index] = item.attempts.get(fault.index, 0) + 1
        desk.note("fault", lane.device, error.message, number)
        while lane.losses < desk.settings.restarts and not desk.closed:
            lane.losses += 1
            start_s = time.perf_counter()
            try:
                lane.host.open()
            except TrisectError as refused:
                error = refused
                desk.note("fault", lane.device, refused.message, number, start_s)
                continue
            desk.note("restart", lane.device, f"{lane.device} is back", number, start_s)
            if item is not None and item.attempts.get(fault.index, 0) >= _ATTEMPTS:
                message = f"{described(segment)}: {_ATTEMPTS} workers died of it ({error.message})"
                desk.end(lane, fault.ticket, DeviceLost(message, remedy=error.remedy))
                return
            with desk.lock:
                lane.push(fault.ticket, fault.index)
                lane.release()
            return
        self._give_up(assembly, lane, DeviceLost(f"{lane.device} is lost: {error.message}", remedy=error.remedy))

    def end_hanging(self) -> None:
        """End the runs that take too long; where that cannot be done, go on without the device."""
        desk, now_s = self._desk, time.perf_counter()
        with desk.lock:
            assembly = desk.assembly
            late = [lane for lane in assembly.lanes.values() if lane.deadline_s is not None and lane.deadline_s < now_s]
            for lane in late:
                lane.deadline_s = None
                lane.hangs = True
                lane.abandoned = lane.stopping = not lane.host.can_kill
        for lane in late:
            if lane.host.can_kill:
                lane.host.kill()
            elif lane.running is not None:
                error = self._hanging(assembly.flow.segments[lane.running])
                desk.note("fault", lane.device, error.message)
                self._give_up(assembly, lane, error)

    def _hanging(self, segment: Segment) -> DeviceLost:
        message = f"{described(segment)} did not finish within {self._desk.settings.timeout_s:g} s"
        return DeviceLost(message, remedy="give it more time with timeout_s")

    def _give_up(self, assembly: Assembly, lane: Lane, error: TrisectError) -> None:
        """Go on without a device: under a new plan, or with an error for each item that needs it."""
        desk = self._desk
        with desk.lock:
            lane.gone = error
            assembly.replacing = desk.settings.replan is not None
            if lane.device not in self._lost:
                self._lost.append(lane.device)
        refused = self._replace(assembly) if assembly.replacing else None
        needing = {index for index, found in assembly.lane_of.items() if found is lane}
        with desk.lock:
            if refused is not None:
                message = f"{error.message}; nothing can take its place: {refused.message}"
                lane.gone = error = DeviceLost(message, remedy=refused.remedy)
            assembly.replacing = False
            tickets = [t for t, i in desk.board.items.items() if i.assembly is assembly and i.left & needing]
            items = [desk.board.remove(ticket) for ticket in tickets]
            lane.ready.clear()
            lane.release()
        for item in filter(None, items):
            item.future.set_exception(error)

    def _replace(self, assembly: Assembly) -> TrisectError | None:
        """Have a new plan take the place of one that lost a device; gives the reason where none can."""
        desk, replan, start_s = self._desk, self._desk.settings.replan, time.perf_counter()
        assert replan is not None
        with self._replanning:
            if desk.closed or desk.assembly is not assembly:  # another device was lost at the same time
                return None
            try:
                listed = {device.id for device in assembly.plan.devices}
                plan = replan(assembly.plan, without=[device for device in self._lost if device in listed])
                if (plan.inputs, plan.outputs) != (assembly.plan.inputs, assembly.plan.outputs):
                    raise InvalidPlan("the new plan has other inputs or outputs")
                following = self._assemble(plan)
            except TrisectError as refused:
                return refused
            except Exception as broken:  # a caller's own planner may raise anything
                return EngineFailed(f"{type(broken).__name__}: {broken}")
            devices = ", ".join(following.lanes)
            desk.note("replan", devices, f"goes on without {', '.join(self._lost)}, on {devices}", start_s=start_s)
            failed = self._move(following)
        for item, error in failed:
            item.future.set_exception(error)
        assembly.stop()
        return None

    def _move(self, following: Assembly) -> list[tuple[Item, TrisectError]]:
        """Have all items begin again on another assembly."""
        desk = self._desk
        failed: list[tuple[Item, TrisectError]] = []
        with desk.lock:
            if desk.closed:
                following.stop_locked()
                desk.retired.append(following)
                return failed
            desk.retired.append(desk.assembly)
            desk.assembly = following
            for ticket, item in list(desk.board.items.items()):
                try:
                    tensors = following.crew.admit(item.feeds)
                except TrisectError as error:
                    desk.board.remove(ticket)
                    failed.append((item, error))
                    continue
                desk.distribute_locked(following, ticket, desk.board.begin(item, following, tensors), lend=False)
        return failed
