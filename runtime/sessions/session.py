"""A plan loaded on engines, to be run: one item at a time, or a stream of them as a pipeline."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future
from itertools import starmap
from types import TracebackType
from typing import Literal, get_args, overload

import numpy as np

from ..engines.base import LoadOptions
from ..errors import InvalidInput, TrisectError
from ..executors import RESTARTS, Replan, Result, Settings, open_executor
from ..plans.plan import Plan
from ..plans.timeline import Event, EventRow, Timeline, Trace
from ..progress import Progress, no_progress
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import Arrays
from ..tensors.tensors import check_feeds
from .item_batching import refuse_unbatched
from .streaming import OnError, Outputs, Ways, astream, stream

_TRACE_EVENTS = 100_000
"""The trace of a longer stream keeps its last events only, so that a stream may run for ever."""

Nan = Literal["allow", "refuse"]


class Session:
    """A plan's segments loaded on their devices.

    Use it as a context manager, or call `close`.

    Parameters
    ----------
    plan : Plan
        Made by a split, or read from a folder.
    executor : str
        ``"threads"``: all devices in this process. ``"processes"``: a process for each, pinned to cores of its own
        where CPU engines work side by side; it survives engines that crash or hang. ``"ray"``: an actor for each, on
        the node that has the device.
    options : LoadOptions, optional
        Threads and precision of every engine. With ``pinned=False`` the system alone decides which cores they use with
        the executor ``"threads"``; else callers keep off the cores of the engine's helpers where it can be told.
    timeout_s : float, optional
        A segment that runs longer hangs: its device is treated as lost.
    restarts : int
        How often in a row a worker that died is started again before its device is lost for good.
    replan : callable, optional
        ``replan(plan, without=[device ids])`` gives another plan of the same model, for when a device is lost for
        good; the items in flight begin again under it. Without one, items that need the device fail.
    nan : str
        ``"refuse"`` to have feeds that hold NaN refused before anything runs; ``"allow"`` to pass them on.
    address : str, optional
        Of the cluster that the executor ``"ray"`` is to join.

    Raises
    ------
    InvalidPlan
        For a plan whose segments cannot be put in an order.
    EngineMissing
        Where the plan needs an engine that is not installed here.
    UnknownDevice
        Where the plan needs a device that is not here.
    EngineFailed
        Where an engine refuses a segment; the message names segment, nodes and device.

    Examples
    --------
    >>> with Session(plan) as session:  # doctest: +SKIP
    ...     logits = session.run({"x": x})["logits"]
    """

    def __init__(
        self,
        plan: Plan,
        executor: str = "threads",
        options: LoadOptions | None = None,
        *,
        timeout_s: float | None = None,
        restarts: int = RESTARTS,
        replan: Replan | None = None,
        nan: Nan = "allow",
        address: str | None = None,
    ) -> None:
        given: object = plan  # whatever its type says
        if not isinstance(given, Plan):
            raise InvalidInput(
                f"a {type(given).__name__} is no plan", remedy="read one from its folder with Plan.load(folder)"
            )
        if address is not None and executor != "ray":
            raise InvalidInput(f"the executor {executor!r} joins no cluster at {address}", remedy="use executor='ray'")
        if timeout_s is not None and not (_is_number(timeout_s) and 0 < timeout_s < math.inf):
            raise InvalidInput(f"a timeout of {timeout_s!r} s lets nothing run", remedy="give seconds above 0")
        _refuse_below(0, "restarts", restarts)
        if nan not in get_args(Nan):
            raise InvalidInput(f"nan is {nan!r}", remedy=f"use one of {', '.join(get_args(Nan))}")
        self._nan = nan
        self._items: deque[EventRow] = deque(maxlen=_TRACE_EVENTS)
        self._incidents_before = 0
        self._executor = open_executor(
            executor, plan, Settings(options or LoadOptions(), timeout_s, restarts, replan, address)
        )

    @property
    def plan(self) -> Plan:
        """The plan that is carried out: another one than at first, once a device was lost."""
        return self._executor.plan

    def run(self, feeds: Arrays) -> Outputs:
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
        DeviceLost
            Where a device is gone for good and nothing can take its place.
        """
        self._forget()
        result = self._executor.run(0, *self._checked(feeds))
        self._items.extend(result.events)
        return result.outputs

    def submit(self, feeds: Arrays) -> Future[Outputs]:
        """Start one item, beside others; see `run`. Leave its arrays alone until the future is done."""
        computed = self._executor.submit(0, *self._checked(feeds))
        outputs: Future[Outputs] = Future()
        outputs.set_running_or_notify_cancel()
        computed.add_done_callback(lambda done: self._pass_on(done, outputs))
        return outputs

    async def run_async(self, feeds: Arrays) -> Outputs:
        """Compute one item while the event loop goes on; see `run`."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(feeds)))

    @overload
    def stream(
        self,
        items: Iterable[Arrays],
        window: int | None = ...,
        *,
        on_error: Literal["raise", "skip"] = ...,
        micro_batch: int = ...,
        progress: Progress = ...,
    ) -> Iterator[Outputs]: ...

    @overload
    def stream(
        self,
        items: Iterable[Arrays],
        window: int | None = ...,
        *,
        on_error: OnError,
        micro_batch: int = ...,
        progress: Progress = ...,
    ) -> Iterator[Outputs | TrisectError]: ...

    def stream(
        self,
        items: Iterable[Arrays],
        window: int | None = None,
        *,
        on_error: OnError = "raise",
        micro_batch: int = 1,
        progress: Progress = no_progress,
    ) -> Iterator[Outputs] | Iterator[Outputs | TrisectError]:
        """Compute many items as a pipeline: while one device works on an item, another works on the next.

        Parameters
        ----------
        items : iterable of feeds
            Read as far ahead as the window goes, no further. Leave an item's arrays alone until its result is out.
        window : int, optional
            Most items (or micro-batches) in flight; default: one more than there are devices.
        on_error : str
            What becomes of an item that fails: ``"raise"`` ends the stream there, ``"skip"`` leaves it out,
            ``"yield"`` gives the error in its place. A session that can compute nothing any longer raises always.
        micro_batch : int
            Most items to put together into one run, along the free dimension that all inputs and outputs begin with.
        progress : callable, optional
            Called as ``progress(done, total, text)`` after each item.

        Yields
        ------
        dict of str to array
            The outputs of each item, in the order of the items.

        Raises
        ------
        InvalidInput, EngineFailed
            At the item concerned, after the results of those before it.
        """
        size = self._window(window, on_error)
        _refuse_below(1, "micro_batch", micro_batch)
        if micro_batch > 1:
            refuse_unbatched(self.plan)
        _refuse_no_items(items, "__iter__", "__getitem__")
        found = stream(items, self._ways(), window=size, on_error=on_error, micro_batch=micro_batch)
        return self._told(found, len(items) if isinstance(items, Sized) else 0, progress)

    def astream(
        self,
        items: Iterable[Arrays] | AsyncIterable[Arrays],
        window: int | None = None,
        *,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Outputs | TrisectError]:
        """As `stream`, of items that may come asynchronously, while the event loop goes on."""
        size = self._window(window, on_error)
        _refuse_no_items(items, "__iter__", "__getitem__", "__aiter__")
        self._forget()
        return astream(items, self._ways(), window=size, on_error=on_error)

    @property
    def trace(self) -> Trace:
        """What the last `run` or `stream` did and when, measured; of a long stream its last part."""
        peak = dict(self._executor.peak_bytes())
        happened = [*starmap(Event, tuple(self._items)), *self.incidents[self._incidents_before :]]
        return Timeline.of(happened, source="measured", peak_bytes=peak or None)

    @property
    def incidents(self) -> tuple[Event, ...]:
        """Faults, restarts and new plans since the session was opened."""
        return tuple(self._executor.incidents())

    def close(self) -> None:
        """Give the devices' memory back; a second call does nothing."""
        self._executor.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, feeds: Arrays) -> tuple[Outputs, ConversionLog]:
        given: object = feeds  # whatever its type says
        if type(given) is not dict and not isinstance(given, Mapping):
            names = ", ".join(spec.name for spec in self.plan.inputs)
            raise InvalidInput(f"feeds are a {type(given).__name__}", remedy=f"give a dict with an array for {names}")
        log = ConversionLog()
        checked = check_feeds(self.plan.inputs, feeds, log)
        if self._nan == "refuse":
            for name, array in checked.items():
                # Kind V holds the small floats that numpy does not know.
                if array.dtype.kind in "fcV" and np.isnan(array).any():
                    raise InvalidInput(
                        f"input {name!r} holds NaN", remedy="clean it, or open the session with nan='allow'"
                    )
        return checked, log

    def _window(self, window: int | None, on_error: OnError) -> int:
        size = len(self.plan.devices) + 1 if window is None else window
        _refuse_below(1, "window", size)
        if on_error not in get_args(OnError):
            raise InvalidInput(f"on_error is {on_error!r}", remedy=f"use one of {', '.join(get_args(OnError))}")
        return size

    def _ways(self) -> Ways:
        return Ways(self._checked, self._executor.submit, self._executor.run, self._keep)

    def _told(
        self, found: Iterator[Outputs | TrisectError], total: int, progress: Progress
    ) -> Iterator[Outputs | TrisectError]:
        self._forget()
        for done, outcome in enumerate(found):
            progress(done + 1, total, f"item {done + 1}")
            yield outcome

    def _forget(self) -> None:
        self._items.clear()
        self._incidents_before = len(self._executor.incidents())

    def _keep(self, result: Result) -> None:
        self._items.extend(result.events)

    def _pass_on(self, computed: Future[Result], outputs: Future[Outputs]) -> None:
        error = computed.exception()
        if error is not None:
            outputs.set_exception(error)
            return
        self._keep(computed.result())
        outputs.set_result(computed.result().outputs)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _refuse_below(least: int, name: str, value: object) -> None:
    """Of counts, whatever their type says."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"{name} is {value!r}", remedy=f"give a whole number, {least} or more")


def _refuse_no_items(items: object, *ways: str) -> None:
    if not any(hasattr(items, way) for way in ways):
        raise InvalidInput(f"a {type(items).__name__} holds no items", remedy="give a list of feeds, or an iterator")
