"""Recovers from the failure of a device.

A worker that dies is restarted and its segment runs again. If two workers die of the same segment of an item, the item
fails. A device whose workers keep dying is lost for good: the items in flight start again under a new plan, or those
that need the device fail where there is no new plan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...errors import DeviceLost, EngineFailed, InvalidPlan, TrisectError, one_line
from ...plans.plan import Plan
from ...plans.plan_parts import Segment
from .device_queue import DeviceQueue, LostRun
from .dispatcher_state import DispatcherState
from .in_flight_items import InFlightItem
from .loaded_plan import LoadedPlan
from .segment_errors import describe_segment

_ATTEMPTS_MAX = 2
"""How many workers may die while running one segment of an item before the item fails."""


class Recovery:
    """Restarts workers, and replaces plans by others that ``load`` loads on hosts of their own."""

    def __init__(self, state: DispatcherState, load: Callable[[Plan], LoadedPlan]) -> None:
        self._state = state
        self._load = load
        self._replanning = threading.Lock()
        self._lost_devices: list[str] = []

    def recover(self, loaded: LoadedPlan, queue: DeviceQueue, lost_run: LostRun) -> None:
        """Restart a device's worker and repeat the lost run, or give the device up; runs on the device's thread."""
        state = self._state
        error: TrisectError = lost_run.error
        segment = loaded.graph.segments[lost_run.segment]
        if queue.hanging:
            error = self._timed_out(segment)
            queue.hanging = False
        with state.lock:
            item = state.items.items.get(lost_run.ticket)
            number = item.number if item is not None else 0
            if item is not None:
                item.attempts[lost_run.segment] = item.attempts.get(lost_run.segment, 0) + 1
        state.add_incident("fault", queue.device, error.message, number)
        while queue.losses < state.settings.restarts and not state.closed:
            queue.losses += 1
            start_s = time.perf_counter()
            try:
                queue.host.open()
            except TrisectError as failure:
                error = failure
                state.add_incident("fault", queue.device, failure.message, number, start_s)
                continue
            state.add_incident("restart", queue.device, f"{queue.device} was restarted", number, start_s)
            if item is not None and item.attempts.get(lost_run.segment, 0) >= _ATTEMPTS_MAX:
                message = f"{describe_segment(segment)}: {_ATTEMPTS_MAX} workers died of it ({error.message})"
                state.fail_item(
                    queue, lost_run.ticket, DeviceLost(message, remedy=error.remedy, device=queue.device)
                )  # fmt: skip
                return
            with state.lock:
                queue.push(lost_run.ticket, lost_run.segment)
                queue.release()
            return
        message = f"{queue.device} is lost: {error.message}"
        self._give_up(loaded, queue, DeviceLost(message, remedy=error.remedy, device=queue.device))

    def end_hanging_runs(self) -> None:
        """Kill the workers of runs that exceed the time limit; where that is impossible, give up the device."""
        state, now_s = self._state, time.perf_counter()
        with state.lock:
            loaded = state.loaded
            queues = loaded.queues.values()
            late = [queue for queue in queues if queue.deadline_s is not None and queue.deadline_s < now_s]
            for queue in late:
                queue.deadline_s = None
                queue.hanging = True
                queue.abandoned = queue.stopping = not queue.host.can_kill
        for queue in late:
            if queue.host.can_kill:
                queue.host.kill()
            elif queue.running is not None:
                error = self._timed_out(loaded.graph.segments[queue.running])
                state.add_incident("fault", queue.device, error.message)
                self._give_up(loaded, queue, error)

    def _timed_out(self, segment: Segment) -> DeviceLost:
        message = f"{describe_segment(segment)} did not finish within {self._state.settings.timeout_s:g} s"
        return DeviceLost(message, remedy="give it more time with timeout_s", device=segment.device)

    def _give_up(self, loaded: LoadedPlan, queue: DeviceQueue, error: TrisectError) -> None:
        """Continue without a device: under a new plan, or with an error for each item that needs it."""
        state = self._state
        with state.lock:
            queue.lost = error
            loaded.replacing = state.settings.replan is not None
            if queue.device not in self._lost_devices:
                self._lost_devices.append(queue.device)
        failure = self._replace(loaded) if loaded.replacing else None
        lost_segments = {index for index, other in loaded.queue_of.items() if other is queue}
        with state.lock:
            if failure is not None:
                message = f"{error.message}; no plan without it: {failure.message}"
                queue.lost = error = DeviceLost(message, remedy=failure.remedy, device=queue.device)
            loaded.replacing = False
            affected = [
                ticket
                for ticket, item in state.items.items.items()
                if item.loaded is loaded and item.remaining & lost_segments
            ]
            items = [state.items.remove(ticket) for ticket in affected]
            queue.ready.clear()
            queue.release()
        for item in filter(None, items):
            item.future.set_exception(error)

    def _replace(self, loaded: LoadedPlan) -> TrisectError | None:
        """Replace a plan that lost a device by a new one; return the reason where there is none."""
        state, replan, start_s = self._state, self._state.settings.replan, time.perf_counter()
        assert replan is not None
        with self._replanning:
            if state.closed or state.loaded is not loaded:  # another device was lost at the same time
                return None
            try:
                listed = {device.id for device in loaded.plan.devices}
                plan = replan(loaded.plan, without=[device for device in self._lost_devices if device in listed])
                if (plan.inputs, plan.outputs) != (loaded.plan.inputs, loaded.plan.outputs):
                    raise InvalidPlan("the new plan has other inputs or outputs")
                replacement = self._load(plan)
            except TrisectError as failure:
                return failure
            except Exception as failure:  # replan is the user's function: the error is reported with the lost device
                return EngineFailed(one_line(failure))
            devices, lost = ", ".join(replacement.queues), ", ".join(self._lost_devices)
            state.add_incident("replan", devices, f"continues without {lost}, on {devices}", start_s=start_s)
            failed = self._move_items(replacement)
        for item, error in failed:
            item.future.set_exception(error)
        loaded.stop()
        return None

    def _move_items(self, replacement: LoadedPlan) -> list[tuple[InFlightItem, TrisectError]]:
        """Start all items in flight again under another plan; return those that it refuses."""
        state = self._state
        failed: list[tuple[InFlightItem, TrisectError]] = []
        with state.lock:
            if state.closed:
                replacement.stop_locked()
                state.retired.append(replacement)
                return failed
            state.retired.append(state.loaded)
            state.loaded = replacement
            for ticket, item in list(state.items.items.items()):
                try:
                    tensors = replacement.group.admit(item.feeds)
                except TrisectError as error:
                    state.items.remove(ticket)
                    failed.append((item, error))
                    continue
                ready = state.items.start(item, replacement, tensors)
                state.enqueue_locked(replacement, ticket, ready, by_caller=False)
        return failed
