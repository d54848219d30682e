"""Tracks the items in flight: which segments each still waits for, which tensors are alive, and who gets the result.

No threads and no engines here: each method is one state transition, called with the dispatcher's lock held.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from ...plans.plan_parts import Segment
from ...plans.timeline import EventRow
from ...tensors.conversions import Conversion
from ...tensors.tensor_spec import Arrays
from .execution import ItemResult
from .host import SegmentRun, Tensor
from .loaded_plan import LoadedPlan
from .segment_graph import SegmentGraph


class LazyFuture:
    """A future for a caller that mostly computes the result itself: an event is created only if it has to wait."""

    def __init__(self) -> None:
        self._result: ItemResult | None = None
        self._error: BaseException | None = None
        self._done = False
        self._event: threading.Event | None = None

    def set_result(self, result: ItemResult) -> None:
        """See `concurrent.futures.Future.set_result`."""
        self._result = result
        self._finish()

    def set_exception(self, error: BaseException) -> None:
        """See `concurrent.futures.Future.set_exception`."""
        self._error = error
        self._finish()

    def result(self) -> ItemResult:
        """See `concurrent.futures.Future.result`."""
        if not self._done:
            self._event = event = threading.Event()
            if not self._done:  # it may have finished before the event existed
                event.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _finish(self) -> None:
        self._done = True
        if self._event is not None:
            self._event.set()


class InFlightItem:
    """One set of feeds and how far it has been computed."""

    __slots__ = (
        "attempts", "events", "feeds", "future", "loaded", "moved", "number", "remaining", "starts", "tensors",
        "use_counts", "waiting",
    )  # fmt: skip

    def __init__(self, number: int, feeds: Arrays, future: Future[ItemResult] | LazyFuture) -> None:
        self.number = number
        self.feeds = feeds
        """The caller's: the item may have to start again from them."""
        self.future = future
        self.loaded: LoadedPlan
        """The plan under which it was started last."""
        self.starts = 0
        """How many times it was started."""
        self.events: list[EventRow] = []
        self.tensors: dict[str, Tensor] = {}
        self.use_counts: dict[str, int]
        """Tensor -> how many times it will still be read."""
        self.waiting: dict[int, int]
        """Segment -> number of inputs that are not computed yet."""
        self.remaining: set[int] = set()
        """Segments that did not run yet."""
        self.moved: set[tuple[str, str]]
        """Pairs of tensor and device to which it was transferred."""
        self.attempts: dict[int, int]
        """Segment -> number of workers that died while running it."""


class InFlightItems:
    """Items in flight by ticket, a number that grows with each item: the lowest is the oldest."""

    def __init__(self) -> None:
        self.items: dict[int, InFlightItem] = {}
        self.peak_bytes: Counter[str] = Counter()
        """Device -> peak size of the tensors that it computed and that are still needed."""
        self._live_bytes: Counter[str] = Counter()
        self._last_ticket = 0

    def add(self, item: InFlightItem, loaded: LoadedPlan, tensors: Mapping[str, Tensor]) -> tuple[int, list[int]]:
        """Add an item and start it; return its ticket and the segments that can run."""
        self._last_ticket += 1
        self.items[self._last_ticket] = item
        return self._last_ticket, self.start(item, loaded, tensors)

    def start(self, item: InFlightItem, loaded: LoadedPlan, tensors: Mapping[str, Tensor]) -> list[int]:
        """Start an item, or start it again under another plan; return the segments that can run."""
        if item.starts:
            self._drop_tensors(item)
        graph = loaded.graph
        item.loaded = loaded
        item.starts += 1
        item.tensors = dict(tensors)
        item.use_counts = dict(graph.use_counts)
        item.waiting = dict(graph.in_degrees)
        item.remaining = set(graph.segments)
        item.moved = set()
        item.attempts = {}
        return list(graph.sources)

    def inputs(self, ticket: int, loaded: LoadedPlan, segment: Segment) -> dict[str, Tensor] | None:
        """Return the inputs of a segment; None where the item is finished or was started again under another plan."""
        item = self.items.get(ticket)
        if item is None or item.loaded is not loaded or segment.index not in item.remaining:
            return None
        return {spec.name: item.tensors[spec.name] for spec in segment.inputs}

    def complete(
        self, item: InFlightItem, segment: Segment, run: SegmentRun, sent_s: float, clock_start_s: float
    ) -> list[int]:
        """Record the run of a segment; return the segments that can run now.

        Parameters
        ----------
        sent_s : float
            When the dispatcher called the host, on the clock of `time.perf_counter`.
        clock_start_s : float
            Zero of the events' clock.
        """
        graph, device = item.loaded.graph, segment.device
        start_s, end_s = run.start_s - clock_start_s, run.end_s - clock_start_s
        size_bytes = 0
        for name, tensor in run.outputs.items():
            size_bytes += tensor.nbytes
            if item.use_counts.get(name):
                item.tensors[name] = tensor
                self._live_bytes[device] += tensor.nbytes
        if self._live_bytes[device] > self.peak_bytes[device]:
            self.peak_bytes[device] = self._live_bytes[device]
        for spec in segment.inputs:
            producer = graph.producers.get(spec.name)
            if producer is not None and producer.device != device and (spec.name, device) not in item.moved:
                item.moved.add((spec.name, device))
                moved_bytes = item.tensors[spec.name].nbytes
                transfer_start_s = min(sent_s - clock_start_s, start_s)
                item.events.append((spec.name, "transfer", device, transfer_start_s, start_s, item.number, moved_bytes))
            self._release(item, spec.name)
        item.events.append((f"segment {segment.index}", "compute", device, start_s, end_s, item.number, size_bytes))
        if run.converted:
            self.add_conversions(item, device, run.converted, clock_start_s)
        item.remaining.discard(segment.index)
        return self._newly_ready(item, graph, run.outputs)

    def add_conversions(
        self, item: InFlightItem, device: str | None, conversions: Iterable[Conversion], clock_start_s: float
    ) -> None:
        """Record conversions on a device; None = on the way from the caller to the first segment that reads each."""
        graph = item.loaded.graph
        for name, start_s, end_s, size_bytes in conversions:
            readers = graph.consumers.get(name, ()) if device is None else ()
            event_device = graph.segments[readers[0]].device if readers else device or ""
            times = start_s - clock_start_s, end_s - clock_start_s
            item.events.append((name, "convert", event_device, *times, item.number, size_bytes))

    def finish(self, ticket: int) -> dict[str, Tensor]:
        """Remove an item whose segments have all run; return the model's outputs."""
        item = self.items.pop(ticket)
        outputs = {}
        for name in item.loaded.graph.outputs:
            outputs[name] = item.tensors[name]
            self._release(item, name)
        return outputs

    def remove(self, ticket: int) -> InFlightItem | None:
        """Remove an item that failed; None where it is finished or removed already."""
        item = self.items.pop(ticket, None)
        if item is not None:
            self._drop_tensors(item)
        return item

    def _newly_ready(self, item: InFlightItem, graph: SegmentGraph, computed: Iterable[str]) -> list[int]:
        ready = []
        for name in computed:
            for reader in graph.consumers.get(name, ()):
                item.waiting[reader] -= 1
                if not item.waiting[reader]:
                    ready.append(reader)
        return ready

    def _release(self, item: InFlightItem, name: str) -> None:
        item.use_counts[name] -= 1
        if not item.use_counts[name]:
            self._subtract(item, name, item.tensors.pop(name))

    def _drop_tensors(self, item: InFlightItem) -> None:
        for name, tensor in item.tensors.items():
            self._subtract(item, name, tensor)
        item.tensors.clear()

    def _subtract(self, item: InFlightItem, name: str, tensor: Tensor) -> None:
        producer = item.loaded.graph.producers.get(name)
        if producer is not None:
            self._live_bytes[producer.device] -= tensor.nbytes
