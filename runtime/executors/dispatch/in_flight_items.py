"""Keeps track of items in flight: what each still needs, which tensors are alive, and who waits for the answer.

No threads and no engines here: each method is one step of bookkeeping, called with the dispatcher's lock held.
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
from .. import Result
from .device_queues import Assembly
from .hosts import Ran, Tensor
from .tensor_flow import Flow


class Answer:
    """The future of a caller that mostly does the work itself: nothing to wait on is made unless it has to wait."""

    def __init__(self) -> None:
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._done = False
        self._waiting: threading.Event | None = None

    def set_result(self, result: Result) -> None:
        """As of a future."""
        self._result = result
        self._tell()

    def set_exception(self, error: BaseException) -> None:
        """As of a future."""
        self._error = error
        self._tell()

    def result(self) -> Result:
        """As of a future."""
        if not self._done:
            self._waiting = waiting = threading.Event()
            if not self._done:  # it may have come before there was anything to tell
                waiting.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _tell(self) -> None:
        self._done = True
        if self._waiting is not None:
            self._waiting.set()


class Item:
    """One set of feeds on its way through the segments."""

    __slots__ = (
        "assembly", "attempts", "begun", "events", "feeds", "future", "left", "moved", "number", "tensors", "uses",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, number: int, feeds: Arrays, future: Future[Result] | Answer, assembly: Assembly
    ) -> None:  # fmt: skip
        self.number = number
        self.feeds = feeds
        """The caller's: the work may have to begin again from them."""
        self.future = future
        self.assembly = assembly
        self.begun = 0
        """How often it began."""
        self.events: list[EventRow] = []
        self.tensors: dict[str, Tensor] = {}
        self.uses: dict[str, int]
        """How often each tensor will still be read."""
        self.waiting: dict[int, int]
        """Segment -> how many tensors it waits for."""
        self.left: set[int] = set()
        """Segments that are not done."""
        self.moved: set[tuple[str, str]]
        """Tensors and the devices that they have reached."""
        self.attempts: dict[int, int]
        """Segment -> how often a worker died of it."""


class Board:
    """Items in flight, by ticket: a number that grows with each item, so that the lowest is the oldest."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.peak_bytes: Counter[str] = Counter()
        self._live_bytes: Counter[str] = Counter()
        self._ticket = 0

    def enter(self, item: Item, tensors: Mapping[str, Tensor]) -> tuple[int, list[int]]:
        """Take an item in; gives its ticket and the segments that can run at once."""
        self._ticket += 1
        self.items[self._ticket] = item
        return self._ticket, self.begin(item, item.assembly, tensors)

    def begin(self, item: Item, assembly: Assembly, tensors: Mapping[str, Tensor]) -> list[int]:
        """Set an item to its beginning, on a first assembly or on another; gives the segments that can run at once."""
        if item.begun:
            self._drop(item)
        flow = assembly.flow
        item.assembly = assembly
        item.begun += 1
        item.tensors = dict(tensors)
        item.uses = dict(flow.uses)
        item.waiting = dict(flow.waits_for)
        item.left = set(flow.segments)
        item.moved = set()
        item.attempts = {}
        return list(flow.first)

    def feeds(self, ticket: int, assembly: Assembly, segment: Segment) -> dict[str, Tensor] | None:
        """What a segment reads; None where the item is done with, or began again elsewhere."""
        item = self.items.get(ticket)
        if item is None or item.assembly is not assembly or segment.index not in item.left:
            return None
        return {spec.name: item.tensors[spec.name] for spec in segment.inputs}

    def complete(self, item: Item, segment: Segment, ran: Ran, sent_s: float, started_s: float) -> list[int]:
        """Note what a run gave, and when; gives the segments that can run now.

        Parameters
        ----------
        item, segment, ran
        sent_s : float
            When its device was told to.
        started_s : float
            Where the events' clock begins.
        """
        flow, device = item.assembly.flow, segment.device
        start_s, end_s = ran.start_s - started_s, ran.end_s - started_s
        size_bytes = 0
        for name, tensor in ran.outputs.items():
            size_bytes += tensor.nbytes
            if item.uses.get(name):
                item.tensors[name] = tensor
                self._live_bytes[device] += tensor.nbytes
        if self._live_bytes[device] > self.peak_bytes[device]:
            self.peak_bytes[device] = self._live_bytes[device]
        for spec in segment.inputs:
            maker = flow.makers.get(spec.name)
            if maker is not None and maker.device != device and (spec.name, device) not in item.moved:
                item.moved.add((spec.name, device))
                moved_bytes = item.tensors[spec.name].nbytes
                left_s = min(sent_s - started_s, start_s)
                item.events.append((spec.name, "transfer", device, left_s, start_s, item.number, moved_bytes))
            self._release(item, spec.name)
        item.events.append((f"segment {segment.index}", "compute", device, start_s, end_s, item.number, size_bytes))
        if ran.converted:
            self.converted(item, device, ran.converted, started_s)
        item.left.discard(segment.index)
        return self._reached(item, flow, ran.outputs)

    def converted(self, item: Item, device: str | None, found: Iterable[Conversion], started_s: float) -> None:
        """Note what tensors went through; with no device, those of the caller, on their way to whoever reads them."""
        flow = item.assembly.flow
        for name, start_s, end_s, size_bytes in found:
            readers = flow.readers.get(name, ()) if device is None else ()
            on = flow.segments[readers[0]].device if readers else device or ""
            times = start_s - started_s, end_s - started_s
            item.events.append((name, "convert", on, *times, item.number, size_bytes))

    def finish(self, ticket: int) -> dict[str, Tensor]:
        """Take out an item of which nothing is left to do; gives the model's outputs."""
        item = self.items.pop(ticket)
        outputs = {}
        for name in item.assembly.flow.outputs:
            outputs[name] = item.tensors[name]
            self._release(item, name)
        return outputs

    def remove(self, ticket: int) -> Item | None:
        """Take out an item that nobody works on any longer; None where it is gone already."""
        item = self.items.pop(ticket, None)
        if item is not None:
            self._drop(item)
        return item

    def _reached(self, item: Item, flow: Flow, made: Iterable[str]) -> list[int]:
        ready = []
        for name in made:
            for reader in flow.readers.get(name, ()):
                item.waiting[reader] -= 1
                if not item.waiting[reader]:
                    ready.append(reader)
        return ready

    def _release(self, item: Item, name: str) -> None:
        item.uses[name] -= 1
        if not item.uses[name]:
            self._forget(item, name, item.tensors.pop(name))

    def _drop(self, item: Item) -> None:
        for name, tensor in item.tensors.items():
            self._forget(item, name, tensor)
        item.tensors.clear()

    def _forget(self, item: Item, name: str, tensor: Tensor) -> None:
        maker = item.assembly.flow.makers.get(name)
        if maker is not None:
            self._live_bytes[maker.device] -= tensor.nbytes
