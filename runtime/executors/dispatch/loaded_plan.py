"""A plan loaded on its hosts, with a queue and a thread for each device.

When a device is lost for good, another `LoadedPlan` replaces the whole one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from ...core_affinity import THREAD_NAME_PREFIX
from ...errors import TrisectError
from ...plans.plan import Plan
from .device_queue import DeviceQueue
from .host import HostGroup
from .segment_graph import SegmentGraph


class LoadedPlan:
    """A plan with its segment graph, its hosts, and a `DeviceQueue` for each device.

    No threads run before `start`. The queues are guarded by the dispatcher's lock, which is passed in.
    """

    def __init__(self, plan: Plan, graph: SegmentGraph, group: HostGroup, lock: threading.Lock) -> None:
        self.plan = plan
        self.graph = graph
        self.group = group
        self.queues = {device: DeviceQueue(device, host, lock) for device, host in group.hosts.items()}
        """By device id."""
        self.queue_of = {index: self.queues[segment.device] for index, segment in graph.segments.items()}
        """By segment index."""
        self.replacing = False
        """Another plan is being loaded to replace this one: new items are still accepted."""
        self._all_queues = tuple(self.queues.values())
        self._lock = lock
        self._alive = len(self.queues)

    def start(self, work: Callable[[LoadedPlan, DeviceQueue], None]) -> None:
        """Open all hosts, each on a thread of its own that then calls ``work``, and closes the host after it.

        Raises
        ------
        EngineFailed
            Where a host cannot load its segments; everything is closed again then.
        """
        opened: dict[str, Future[None]] = {device: Future() for device in self.queues}
        for device, queue in self.queues.items():
            queue.thread = threading.Thread(
                target=self._serve, args=(queue, opened[device], work), name=f"{THREAD_NAME_PREFIX} {device}",
                daemon=True,
            )  # fmt: skip
            queue.thread.start()
        if not self.queues:
            self.group.close()
        try:
            for future in opened.values():
                future.result()
        except BaseException:
            self.stop()
            self.join()
            raise

    def stop(self) -> None:
        """Make all device threads end after their current run."""
        with self._lock:
            self.stop_locked()

    def stop_locked(self) -> None:
        """As `stop`, for a caller that holds the lock."""
        for queue in self._all_queues:
            queue.stop()

    def join(self) -> None:
        """Wait for the device threads to end, except for a hanging one."""
        for queue in self._all_queues:
            while queue.thread is not None and queue.thread.is_alive() and not queue.abandoned:
                if queue.thread is threading.current_thread():
                    break
                queue.thread.join(0.2)

    @property
    def lost(self) -> TrisectError | None:
        """Why no more items can be computed: a device is lost for good."""
        for queue in self._all_queues:  # a loop, as it is called for each item
            if queue.lost is not None:
                return queue.lost
        return None

    def _serve(self, queue: DeviceQueue, opened: Future[None], work: Callable[[LoadedPlan, DeviceQueue], None]) -> None:
        try:
            try:
                queue.host.open()
            except BaseException as error:  # raised by `start`
                opened.set_exception(error)
                return
            opened.set_result(None)
            work(self, queue)
        finally:
            queue.host.close()
            with self._lock:
                self._alive -= 1
                is_last = self._alive == 0
            if is_last:
                self.group.close()
