"""Decides what runs when: the one dispatcher behind every executor.

A segment is queued on its device once all that it reads is there, the oldest item first, so that a stream stays in
order and no item starves. A tensor is let go as soon as its last reader is done. A caller that waits for one item lends
its own thread to devices that are idle, which saves waking theirs. What goes wrong with devices is for `_recovery`.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from ...errors import DeviceLost, EngineFailed, TensorLost, TrisectError
from ...plans.plan import Plan
from ...plans.timeline import Event
from ...tensors.conversions import Conversion
from ...tensors.tensor_spec import Arrays
from .. import Result, Settings
from .device_queues import Assembly, Fault, Lane
from .dispatcher_state import Desk, Task
from .hosts import Crew, Tensor
from .in_flight_items import Answer, Item
from .recovery import Recovery
from .tensor_flow import Flow, named
from .watchdog import Watch

_BEGINNINGS = 4
"""How often an item may begin, where nodes go down with its tensors."""


class Dispatcher:
    """A plan at work; see `Executor`.

    Parameters
    ----------
    plan : Plan
    gather : callable
        Makes the crew of a plan: of this one, and of each that takes its place.
    settings : Settings
    """

    def __init__(self, plan: Plan, gather: Callable[[Plan], Crew], settings: Settings) -> None:
        self._gather = gather
        self._desk = Desk(settings)
        self._recovery = Recovery(self._desk, self._assemble)
        self._desk.assembly = self._assemble(plan)
        self._watch: Watch | None = None
        if settings.timeout_s is not None:
            self._watch = Watch(settings.timeout_s, self._recovery.end_hanging)

    @property
    def plan(self) -> Plan:
        """See `Executor.plan`."""
        return self._desk.assembly.plan

    @property
    def crew(self) -> Crew:
        """The crew at work."""
        return self._desk.assembly.crew

    def submit(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Future[Result]:
        """Start one item; see `Executor.submit`."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()  # from here nobody can take it back
        self._begin(item, feeds, conversions, future, lend=False)
        return future

    def run(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Result:
        """Compute one item; see `Executor.run`."""
        answer = Answer()
        task = self._begin(item, feeds, conversions, answer, lend=True)
        while task is not None:
            task = self._run(task, lend=True)
        return answer.result()

    def incidents(self) -> Sequence[Event]:
        """See `Executor.incidents`."""
        with self._desk.lock:
            return tuple(self._desk.incidents)

    def peak_bytes(self) -> Mapping[str, int]:
        """See `Executor.peak_bytes`."""
        with self._desk.lock:
            return dict(self._desk.board.peak_bytes)

    def close(self) -> None:
        """See `Executor.close`; a second call does nothing."""
        desk = self._desk
        with desk.lock:
            if desk.closed:
                return
            desk.closed = True
            assembly = desk.assembly
            abandoned = [desk.board.remove(ticket) for ticket in list(desk.board.items)]
            running = [lane.host for lane in assembly.lanes.values() if lane.busy and lane.host.can_kill]
            assembly.stop_locked()
        for item in filter(None, abandoned):
            item.future.set_exception(EngineFailed("the session was closed before this item was done"))
        if self._watch is not None:
            self._watch.close()
        for host in running:
            host.kill()
        assembly.join()
        for earlier in desk.retired:  # the one at hand may have added to them until it ended
            earlier.join()

    def _assemble(self, plan: Plan) -> Assembly:
        flow = Flow.of(plan)
        return Assembly(plan, flow, self._gather(plan), self._desk.lock, self._work)

    def _begin(
        self,
        number: int,
        feeds: Arrays,
        conversions: Sequence[Conversion],
        future: Future[Result] | Answer,
        *,
        lend: bool,
    ) -> Task | None:
        desk = self._desk
        desk.refuse_if_over()
        assembly = desk.assembly
        tensors = assembly.crew.admit(feeds)
        with desk.lock:
            desk.refuse_if_over()
            if desk.assembly is not assembly:  # a device was lost meanwhile
                assembly, tensors = desk.assembly, desk.assembly.crew.admit(feeds)
            item = Item(number, feeds, future, assembly)
            ticket, ready = desk.board.enter(item, tensors)
            if conversions:
                desk.board.converted(item, None, conversions, desk.started_s)
            task = desk.distribute_locked(assembly, ticket, ready, lend=lend)
            outputs = None if item.left else desk.board.finish(ticket)
        if outputs is not None:
            self._answer(item, outputs)
        return task

    def _work(self, assembly: Assembly, lane: Lane) -> None:
        """What the thread of a lane does all its life."""
        while True:
            with self._desk.lock:
                while not lane.stopping and (lane.busy or not (lane.ready or lane.fault)):
                    lane.wake.wait()
                if lane.stopping:
                    return
                lane.busy = True
                fault, lane.fault = lane.fault, None
                task = None if fault is not None else Task(assembly, *heapq.heappop(lane.ready))
            if fault is not None:
                self._recovery.recover(assembly, lane, fault)
            elif task is not None:
                self._run(task, lend=False)

    def _run(self, task: Task, *, lend: bool) -> Task | None:
        """Run a segment on its lane, which is the caller's until the end; gives the next task to a lender."""
        desk, assembly, ticket = self._desk, task.assembly, task.ticket
        lane, segment = assembly.lane_of[task.segment], assembly.flow.segments[task.segment]
        with desk.lock:
            feeds = desk.board.feeds(ticket, assembly, segment)
            if feeds is None:  # given up: another of its segments failed, or the session closed
                lane.release()
                return None
            sent_s = time.perf_counter()
            if desk.settings.timeout_s is not None:
                lane.deadline_s = sent_s + desk.settings.timeout_s
                lane.running = task.segment
        try:
            ran = lane.host.run(segment, feeds)
        except DeviceLost as error:
            with desk.lock:
                if not lane.abandoned:
                    lane.fault = Fault(error, ticket, task.segment)
                    lane.release()
            return None
        except TensorLost as error:
            with desk.lock:
                lost = desk.board.remove(ticket)
                lane.release()
            if lost is not None:
                self._again(lost, error)
            return None
        except BaseException as error:  # a lane has no caller but the future
            desk.end(lane, ticket, named(segment, error) if isinstance(error, TrisectError) else error)
            return None
        following, outputs = None, None
        with desk.lock:
            del feeds  # the last reader of a tensor must not keep it
            lane.losses = 0
            lane.release()
            item = desk.board.items.get(ticket)
            if item is not None and item.assembly is assembly and not lane.abandoned:
                ready = desk.board.complete(item, segment, ran, sent_s, desk.started_s)
                following = desk.distribute_locked(assembly, ticket, ready, lend=lend)
                outputs = None if item.left else desk.board.finish(ticket)
        if item is not None and outputs is not None:
            self._answer(item, outputs)
        return following

    def _answer(self, item: Item, outputs: Mapping[str, Tensor]) -> None:
        """Tell whoever waits for an item, outside the lock: what they do next is theirs."""
        try:
            delivered = item.assembly.crew.deliver(outputs)
            makers = item.assembly.flow.makers
            for name in [name for name in delivered if name not in makers]:
                delivered[name] = np.array(delivered[name])  # an input passed through is not the caller's to share
        except TensorLost as error:
            self._again(item, error)
        except BaseException as error:
            item.future.set_exception(error)
        else:
            item.future.set_result(Result(delivered, item.events))

    def _again(self, item: Item, error: TensorLost) -> None:
        """Have an item begin from its feeds: one of its tensors is gone, and perhaps those it was made of."""
        desk = self._desk
        desk.note("fault", ", ".join(item.assembly.lanes), error.message, item.number)
        refused: TrisectError | None = error
        if item.begun < _BEGINNINGS:
            try:
                with desk.lock:
                    desk.refuse_if_over()
                    item.assembly = desk.assembly
                    ticket, ready = desk.board.enter(item, item.assembly.crew.admit(item.feeds))
                    desk.distribute_locked(item.assembly, ticket, ready, lend=False)
                refused = None
            except TrisectError as failure:
                refused = failure
        if refused is not None:
            item.future.set_exception(refused)
