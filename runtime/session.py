"""A plan loaded on engines, to be run: one item at a time, or a stream of them as a pipeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from types import TracebackType

import numpy as np

from .engines.base import Arrays, LoadOptions
from .errors import InvalidInput
from .executors import Result, open_executor
from .plan import Plan
from .tensors import check_feeds
from .timeline import Event, Timeline, Trace

_TRACE_EVENTS = 100_000
"""The trace of a longer stream keeps its last events only, so that a stream may run for ever."""


class Session:
    """A plan's segments loaded on their devices.

    Use it as a context manager, or call `close`.

    Parameters
    ----------
    plan : Plan
        Made by a split, or read from a folder.
    executor : str
        ``"threads"``: all devices in this process.
    options : LoadOptions, optional
        Threads and precision of every engine.

    Raises
    ------
    InvalidPlan
        For a plan whose segments cannot be put in an order.
    EngineMissing
        Where the plan needs an engine that is not installed here.
    EngineFailed
        Where an engine refuses a segment; the message names segment, nodes and device.

    Examples
    --------
    >>> with Session(plan) as session:  # doctest: +SKIP
    ...     logits = session.run({"x": x})["logits"]
    """

    def __init__(self, plan: Plan, executor: str = "threads", options: LoadOptions | None = None) -> None:
        self.plan = plan
        self._events: deque[Event] = deque(maxlen=_TRACE_EVENTS)
        self._executor = open_executor(executor, plan, options or LoadOptions())

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Compute one item.

        Parameters
        ----------
        feeds : mapping of str to array
            Every input of the model, by name. Arrays are not copied unless they are not C-ordered.

        Returns
        -------
        dict of str to array
            Every output of the model, in its order; the caller's own.

        Raises
        ------
        InvalidInput
            For a wrong name, dtype or shape, before anything runs.
        EngineFailed
            Naming segment, nodes and device. The session can still be used.
        """
        self._events.clear()
        return self._take(self._submit(0, feeds))

    def stream(self, items: Iterable[Arrays], window: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Compute many items as a pipeline: while one device works on an item, another works on the next.

        Parameters
        ----------
        items : iterable of feeds
            Read as far ahead as the window goes, no further. Leave an item's arrays alone until its result is out.
        window : int, optional
            Most items in flight; default: one more than there are devices.

        Yields
        ------
        dict of str to array
            The outputs of each item, in the order of the items.

        Raises
        ------
        InvalidInput, EngineFailed
            At the item concerned, after the results of those before it.
        """
        size = len(self.plan.devices) + 1 if window is None else window
        if size < 1:
            raise InvalidInput(f"a window of {size} items lets nothing through", remedy="give 1 or more")
        return self._stream(iter(items), size)

    def _stream(self, items: Iterator[Arrays], window: int) -> Iterator[dict[str, np.ndarray]]:
        self._events.clear()
        flying: deque[Future[Result]] = deque()
        ended: Exception | None = None
        count, more = 0, True
        try:
            while more or flying:
                while more and len(flying) < window:
                    try:
                        flying.append(self._submit(count, next(items)))
                        count += 1
                    except StopIteration:
                        more = False
                    except Exception as error:  # the items before it are still owed
                        more, ended = False, error
                if flying:
                    yield self._take(flying.popleft())
        finally:
            wait(flying)  # their feeds are the caller's, who may use the memory again as soon as this returns
        if ended is not None:
            raise ended

    @property
    def trace(self) -> Trace:
        """What the last `run` or `stream` did and when, measured; of a long stream its last part."""
        peak = dict(self._executor.peak_bytes())
        return Timeline.of(list(self._events), source="measured", peak_bytes=peak or None)

    def close(self) -> None:
        """Give the devices' memory back; a second call does nothing."""
        self._executor.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, number: int, feeds: Arrays) -> Future[Result]:
        return self._executor.submit(number, check_feeds(self.plan.inputs, feeds))

    def _take(self, future: Future[Result]) -> dict[str, np.ndarray]:
        result = future.result()
        self._events.extend(result.events)
        return result.outputs
