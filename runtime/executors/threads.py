"""Runs a plan in this process: one thread per device, tensors handed over by reference.

Engines release the interpreter's lock while they compute, so threads overlap; a hand-over costs microseconds whatever
its size. A segment is queued on its device once all that it reads is there, the oldest item first, so that a stream
stays in order and no item starves. A tensor is let go as soon as its last reader is done.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..engines import load
from ..engines.base import Arrays, LoadOptions, Module
from ..errors import EngineFailed, InvalidPlan, TrisectError
from ..plan import Plan, Segment
from ..timeline import Event
from . import Result

_STOP = -1


def open_executor(plan: Plan, options: LoadOptions) -> ThreadExecutor:
    """Load every segment of a plan on its device.

    Raises
    ------
    InvalidPlan
        For segments that wait for each other, or read what nobody makes.
    EngineFailed
        Where an engine refuses a segment; those loaded before are closed again.
    """
    flow = Flow.of(plan)
    devices = {device.id: device for device in plan.devices}
    modules: dict[int, Module] = {}
    try:
        for segment in plan.segments:
            with _naming(segment):
                modules[segment.index] = load(Path(plan.folder) / segment.file, devices[segment.device], options)
    except BaseException:
        for module in modules.values():
            module.close()
        raise
    return ThreadExecutor(flow, modules)


@dataclass(frozen=True)
class Flow:
    """Who makes and who reads each tensor that crosses a segment's boundary."""

    segments: Mapping[int, Segment]
    outputs: tuple[str, ...]
    readers: Mapping[str, tuple[int, ...]]
    """Tensor -> segments that read it."""
    waits_for: Mapping[int, frozenset[str]]
    """Segment -> tensors that other segments make for it."""

    @classmethod
    def of(cls, plan: Plan) -> Flow:
        """Derive the flow of a plan, and refuse one that could never finish."""
        segments = {segment.index: segment for segment in plan.segments}
        devices = {device.id for device in plan.devices}
        made = {spec.name: segment.index for segment in plan.segments for spec in segment.outputs}
        given = {spec.name for spec in plan.inputs}
        readers: dict[str, list[int]] = {}
        for segment in plan.segments:
            if segment.device not in devices:
                raise InvalidPlan(f"segment {segment.index} is on {segment.device}, which the plan does not list")
            for spec in segment.inputs:
                if spec.name not in made and spec.name not in given:
                    raise InvalidPlan(f"segment {segment.index} reads {spec.name!r}, which no segment makes")
                readers.setdefault(spec.name, []).append(segment.index)
        for spec in plan.outputs:
            if spec.name not in made and spec.name not in given:
                raise InvalidPlan(f"no segment makes the output {spec.name!r}")
        waits_for = {
            segment.index: frozenset(spec.name for spec in segment.inputs if spec.name in made)
            for segment in plan.segments
        }
        _check_order(segments, waits_for)
        names = tuple(spec.name for spec in plan.outputs)
        return cls(segments, names, {name: tuple(found) for name, found in readers.items()}, waits_for)


def _check_order(segments: Mapping[int, Segment], waits_for: Mapping[int, frozenset[str]]) -> None:
    made: set[str] = set()
    left = dict(segments)
    while left:
        ready = [index for index in left if waits_for[index] <= made]
        if not ready:
            raise InvalidPlan(f"segments {', '.join(map(str, sorted(left)))} wait for each other", remedy="split again")
        for index in ready:
            made.update(spec.name for spec in left.pop(index).outputs)


@dataclass
class _Item:
    """One set of feeds on its way through the segments."""

    number: int
    tensors: dict[str, np.ndarray]
    readers_left: dict[str, int]
    waiting: dict[int, set[str]]
    segments_left: int
    future: Future[Result]
    events: list[Event] = field(default_factory=list)


class ThreadExecutor:
    """Worker threads with a plan's segments loaded; see `Executor`."""

    def __init__(self, flow: Flow, modules: Mapping[int, Module]) -> None:
        self._flow = flow
        self._modules = dict(modules)
        self._started_s = time.perf_counter()
        self._lock = threading.Lock()
        self._ticket = 0
        self._closed = False
        self._items: dict[int, _Item] = {}
        self._live_bytes: Counter[str] = Counter()
        self._peak_bytes: Counter[str] = Counter()
        self._makers = {spec.name: seg.device for seg in flow.segments.values() for spec in seg.outputs}
        self._queues: dict[str, queue.PriorityQueue[tuple[int, int]]] = {
            device: queue.PriorityQueue() for device in {segment.device for segment in flow.segments.values()}
        }
        self._threads = [
            threading.Thread(target=self._work, args=(waiting,), name=f"trisect {device}", daemon=True)
            for device, waiting in self._queues.items()
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: int, feeds: Arrays) -> Future[Result]:
        """Start one item; see `Executor.submit`."""
        future: Future[Result] = Future()
        flow = self._flow
        readers_left = {name: len(readers) for name, readers in flow.readers.items()}
        for name in flow.outputs:
            readers_left[name] = readers_left.get(name, 0) + 1
        waiting = {index: set(names) for index, names in flow.waits_for.items()}
        started = _Item(item, dict(feeds), readers_left, waiting, len(flow.segments), future)
        with self._lock:
            if self._closed:
                raise EngineFailed("the session is closed", remedy="open it again")
            self._ticket += 1
            ticket = self._ticket
            self._items[ticket] = started
            if not flow.segments:
                self._finish(ticket, started)
            for index, names in waiting.items():
                if not names:
                    self._enqueue(ticket, index)
        return future

    def peak_bytes(self) -> Mapping[str, int]:
        """See `Executor.peak_bytes`."""
        with self._lock:
            return dict(self._peak_bytes)

    def close(self) -> None:
        """See `Executor.close`; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            abandoned = list(self._items.values())
            self._items.clear()
            for waiting in self._queues.values():
                waiting.put((_STOP, _STOP))
        for item in abandoned:
            item.future.set_exception(EngineFailed("the session was closed before this item was done"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for module in self._modules.values():
            module.close()

    def _enqueue(self, ticket: int, index: int) -> None:
        self._queues[self._flow.segments[index].device].put((ticket, index))

    def _work(self, waiting: queue.PriorityQueue[tuple[int, int]]) -> None:
        while True:
            ticket, index = waiting.get()
            if ticket == _STOP:
                return
            self._run(ticket, self._flow.segments[index])

    def _run(self, ticket: int, segment: Segment) -> None:
        with self._lock:
            item = self._items.get(ticket)
            if item is None:  # given up: another of its segments failed, or the session closed
                return
            feeds = {spec.name: item.tensors[spec.name] for spec in segment.inputs}
        start_s = time.perf_counter() - self._started_s
        try:
            with _naming(segment):
                made = self._modules[segment.index].run(feeds)
        except BaseException as error:  # a worker has no caller but the future
            self._fail(ticket, error)
            return
        end_s = time.perf_counter() - self._started_s
        size_bytes = sum(array.nbytes for array in made.values())
        name = f"segment {segment.index}"
        event = Event(name, "compute", segment.device, start_s, end_s, item.number, size_bytes)
        self._complete(ticket, segment, made, event)

    def _complete(self, ticket: int, segment: Segment, made: dict[str, np.ndarray], event: Event) -> None:
        with self._lock:
            item = self._items.get(ticket)
            if item is None:
                return
            item.events.append(event)
            for name, array in made.items():
                if item.readers_left.get(name, 0):
                    item.tensors[name] = array
                    self._live_bytes[segment.device] += array.nbytes
            self._peak_bytes[segment.device] = max(self._peak_bytes[segment.device], self._live_bytes[segment.device])
            for spec in segment.inputs:
                self._release(item, spec.name)
            for name, array in made.items():
                self._hand_over(ticket, item, name, array.nbytes, event)
            item.segments_left -= 1
            if item.segments_left == 0:
                self._finish(ticket, item)

    def _hand_over(self, ticket: int, item: _Item, name: str, size_bytes: int, made: Event) -> None:
        readers = self._flow.readers.get(name, ())
        for target in sorted({self._flow.segments[reader].device for reader in readers} - {made.device}):
            # By reference: it has arrived as soon as it is made.
            item.events.append(Event(name, "transfer", target, made.end_s, made.end_s, item.number, size_bytes))
        for reader in readers:
            item.waiting[reader].discard(name)
            if not item.waiting[reader]:
                self._enqueue(ticket, reader)

    def _release(self, item: _Item, name: str) -> None:
        item.readers_left[name] -= 1
        if item.readers_left[name] == 0:
            array = item.tensors.pop(name)
            if name in self._makers:
                self._live_bytes[self._makers[name]] -= array.nbytes

    def _finish(self, ticket: int, item: _Item) -> None:
        outputs = {}
        for name in self._flow.outputs:
            array = item.tensors[name]
            outputs[name] = array if name in self._makers else array.copy()
            self._release(item, name)
        del self._items[ticket]
        item.future.set_result(Result(outputs, tuple(item.events)))

    def _fail(self, ticket: int, error: BaseException) -> None:
        with self._lock:
            item = self._items.pop(ticket, None)
            if item is None:
                return
            for name, array in item.tensors.items():
                if name in self._makers:
                    self._live_bytes[self._makers[name]] -= array.nbytes
        item.future.set_exception(error)


@contextmanager
def _naming(segment: Segment) -> Iterator[None]:
    """Adds the segment to an engine's error, which knows nothing of segments."""
    try:
        yield
    except TrisectError as error:
        nodes = segment.nodes
        span = (
            f"nodes {nodes[0]!r} to {nodes[-1]!r}" if len(nodes) > 1 else f"node {nodes[0]!r}" if nodes else "no nodes"
        )
        message = f"segment {segment.index} on {segment.device} ({span}): {error.message}"
        raise type(error)(message, remedy=error.remedy) from error
