"""The dispatcher behind every executor: decides which segment runs when.

A segment is queued on its device as soon as all its inputs are there; a device takes the segment of the oldest item
first, so that streams stay in order and no item starves. A tensor is freed after its last reader. A caller that waits
for one item runs segments on idle devices with its own thread, which saves waking up theirs. Failures of devices are
handled by `Recovery`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from ...errors import DeviceLost, EngineFailed, TensorLost, TrisectError
from ...plans.plan import Plan
from ...plans.timeline import Event
from ...tensors.conversions import Conversion
from ...tensors.tensor_spec import Arrays
from .device_queue import DeviceQueue, LostRun
from .dispatcher_state import DispatcherState, SegmentTask
from .execution import ExecutorSettings, ItemResult
from .host import HostGroup, Tensor
from .in_flight_items import InFlightItem, LazyFuture
from .loaded_plan import LoadedPlan
from .output_checks import check_outputs
from .recovery import Recovery
from .segment_errors import in_segment
from .segment_graph import SegmentGraph
from .watchdog import Watchdog

_STARTS_MAX = 4
"""How many times an item is started when cluster nodes are lost with its tensors."""


class Dispatcher:
    """Runs items, each one set of feeds, on the hosts of a plan; several items in flight form a pipeline.

    Parameters
    ----------
    make_hosts : callable
        Makes the hosts of a plan: of this one, and of each that replaces it.
    """

    def __init__(self, plan: Plan, make_hosts: Callable[[Plan], HostGroup], settings: ExecutorSettings) -> None:
        self._make_hosts = make_hosts
        self._state = DispatcherState(settings)
        self._recovery = Recovery(self._state, self._load)
        self._state.loaded = self._load(plan)
        self._watchdog: Watchdog | None = None
        if settings.timeout_s is not None:
            self._watchdog = Watchdog(settings.timeout_s, self._recovery.end_hanging_runs)

    @property
    def plan(self) -> Plan:
        """The plan in use; not the original one after a device was lost and replaced."""
        return self._state.loaded.plan

    @property
    def hosts(self) -> HostGroup:
        """The hosts of the plan in use."""
        return self._state.loaded.group

    @property
    def incident_count(self) -> int:
        """Number of faults, restarts and new plans so far."""
        return self._state.incident_count

    def submit(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Future[ItemResult]:
        """Start one item, given by its number in the stream, its feeds, and the conversions made to check them.

        The feeds are not copied: do not change them until the future is done.
        """
        future: Future[ItemResult] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled any more
        self._start(InFlightItem(item, feeds, future), conversions, by_caller=False)
        return future

    def run(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> ItemResult:
        """Compute one item; faster than `submit`, as the calling thread runs segments on idle devices."""
        future = LazyFuture()
        task = self._start(InFlightItem(item, feeds, future), conversions, by_caller=True)
        while task is not None:
            task = self._run_task(task, by_caller=True)
        return future.result()

    def incidents(self, since: int = 0) -> Sequence[Event]:
        """Return incidents in order, without the first ``since``; only the latest are stored."""
        return self._state.incidents(since)

    def peak_bytes(self) -> Mapping[str, int]:
        """Return, per device id, the peak size of the tensors that it computed and that were still needed."""
        with self._state.lock:
            return dict(self._state.items.peak_bytes)

    def close(self) -> None:
        """Stop and free the devices' memory; items in flight fail with `EngineFailed`. A second call does nothing."""
        state = self._state
        with state.lock:
            if state.closed:
                return
            state.closed = True
            loaded = state.loaded
            unfinished = [state.items.remove(ticket) for ticket in list(state.items.items)]
            running = [queue.host for queue in loaded.queues.values() if queue.busy and queue.host.can_kill]
            loaded.stop_locked()
        for item in filter(None, unfinished):
            item.future.set_exception(EngineFailed("the session was closed before this item was done"))
        if self._watchdog is not None:
            self._watchdog.close()
        for host in running:
            host.kill()
        loaded.join()
        for earlier in state.retired:  # a recovery may have added to them until its thread ended
            earlier.join()

    def _load(self, plan: Plan) -> LoadedPlan:
        graph = SegmentGraph.of(plan)
        loaded = LoadedPlan(plan, graph, self._make_hosts(plan), self._state.lock)
        loaded.start(self._work)
        return loaded

    def _start(self, item: InFlightItem, conversions: Sequence[Conversion], *, by_caller: bool) -> SegmentTask | None:
        state = self._state
        state.check_accepts_items()
        loaded = state.loaded
        tensors = loaded.group.admit(item.feeds)
        with state.lock:
            state.check_accepts_items()
            if state.loaded is not loaded:  # a device was lost meanwhile
                loaded, tensors = state.loaded, state.loaded.group.admit(item.feeds)
            ticket, ready = state.items.add(item, loaded, tensors)
            if conversions:
                state.items.add_conversions(item, None, conversions, state.started_s)
            task = state.enqueue_locked(loaded, ticket, ready, by_caller=by_caller)
            outputs = None if item.remaining else state.items.finish(ticket)
        if outputs is not None:
            self._finish(item, outputs)
        return task

    def _work(self, loaded: LoadedPlan, queue: DeviceQueue) -> None:
        """Run the segments of a queue until it is stopped; the body of the device's thread."""
        while True:
            with self._state.lock:
                while not queue.stopping and (queue.busy or not (queue.ready or queue.lost_run)):
                    queue.wake_up.wait()
                if queue.stopping:
                    return
                queue.busy = True
                lost_run, queue.lost_run = queue.lost_run, None
                task = SegmentTask(loaded, *queue.pop()) if lost_run is None else None
            if lost_run is not None:
                self._recovery.recover(loaded, queue, lost_run)
            elif task is not None:
                self._run_task(task, by_caller=False)

    def _run_task(self, task: SegmentTask, *, by_caller: bool) -> SegmentTask | None:
        """Run a segment on its device, which this thread has reserved; return the next task for a caller's thread."""
        state, loaded, ticket = self._state, task.loaded, task.ticket
        queue, segment = loaded.queue_of[task.segment], loaded.graph.segments[task.segment]
        with state.lock:
            inputs = state.items.inputs(ticket, loaded, segment)
            if inputs is None:  # another segment of the item failed, or the session was closed
                queue.release()
                return None
            sent_s = time.perf_counter()
            if state.settings.timeout_s is not None:
                queue.deadline_s = sent_s + state.settings.timeout_s
                queue.running = task.segment
        try:
            run = queue.host.run(segment, inputs)
            check_outputs(segment, run.outputs)
        except DeviceLost as error:
            with state.lock:
                if not queue.abandoned:
                    queue.lost_run = LostRun(error, ticket, task.segment)
                    queue.release()
            return None
        except TensorLost as error:
            with state.lock:
                lost_item = state.items.remove(ticket)
                queue.release()
            if lost_item is not None:
                self._restart_item(lost_item, error)
            return None
        except BaseException as error:  # reported by the item's future
            state.fail_item(queue, ticket, in_segment(segment, error) if isinstance(error, TrisectError) else error)
            return None
        next_task, outputs = None, None
        with state.lock:
            del inputs  # the last reader of a tensor must not keep it alive
            queue.losses = 0
            queue.release()
            item = state.items.items.get(ticket)
            if item is not None and item.loaded is loaded and not queue.abandoned:
                ready = state.items.complete(item, segment, run, sent_s, state.started_s)
                next_task = state.enqueue_locked(loaded, ticket, ready, by_caller=by_caller)
                outputs = None if item.remaining else state.items.finish(ticket)
        if item is not None and outputs is not None:
            self._finish(item, outputs)
        return next_task

    def _finish(self, item: InFlightItem, outputs: Mapping[str, Tensor]) -> None:
        """Resolve an item's future, outside the lock: its callbacks may call the session."""
        try:
            delivered = item.loaded.group.deliver(outputs)
            producers = item.loaded.graph.producers
            for name in [name for name in delivered if name not in producers]:
                delivered[name] = np.array(delivered[name])  # an input that is an output too is copied for the caller
        except TensorLost as error:
            self._restart_item(item, error)
        except BaseException as error:  # reported by the item's future
            item.future.set_exception(error)
        else:
            item.future.set_result(ItemResult(delivered, item.events))

    def _restart_item(self, item: InFlightItem, error: TensorLost) -> None:
        """Compute an item again from its feeds: a tensor was lost, and perhaps those that it was computed from."""
        state = self._state
        state.add_incident("fault", ", ".join(item.loaded.queues), error.message, item.number)
        failure: TrisectError | None = error
        if item.starts < _STARTS_MAX:
            try:
                with state.lock:
                    state.check_accepts_items()
                    loaded = state.loaded
                    ticket, ready = state.items.add(item, loaded, loaded.group.admit(item.feeds))
                    state.enqueue_locked(loaded, ticket, ready, by_caller=False)
                failure = None
            except TrisectError as refusal:
                failure = refusal
        if failure is not None:
            item.future.set_exception(failure)
