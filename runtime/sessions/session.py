"""A session: a plan loaded on engines, which computes single items, or a stream of items as a pipeline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future
from typing import Literal, get_args, overload

import numpy as np

from ..checks.stream_guard import GuardOptions, StreamGuard
from ..engines.base import LoadOptions
from ..errors import InvalidInput, TrisectError
from ..executors import DEFAULT_RESTARTS, ExecutorOpener, ExecutorSettings, ItemResult, Replan, open_executor
from ..plans.plan import Plan
from ..plans.plan_parts import NARROW_NUMBERS
from ..plans.timeline import Event, Trace
from ..progress import Progress, no_progress
from ..tensors.conversions import ConversionLog
from ..tensors.feed_checks import check_feeds
from ..tensors.tensor_spec import Arrays
from .item_batching import check_batchable
from .option_checks import check_choice, check_count, check_iterable, is_number
from .streaming import OnError, Outputs, StreamCallbacks, astream, stream
from .trace_recorder import TraceRecorder

Nan = Literal["allow", "refuse"]
_NARROW_LIMITS = dict.fromkeys(("int64", "uint64", "uint32"), 2**31 - 1) | {"float64": 3.4e38}
"""Dtypes of more than 32 bits (uint32: unsigned) -> the largest number of them that fits into 32."""


class Session:
    """The segments of a plan loaded on their devices.

    Use it as a context manager, or call `close`.

    Parameters
    ----------
    plan : Plan
        Made by a split, or loaded from a folder.
    executor : str or callable
        ``"threads"``: all devices in this process. ``"processes"``: a process per device, pinned to cores of its own
        where CPU engines work side by side; survives engines that crash or hang. ``"ray"``: an actor per device, on
        the cluster node that has the device. Or a function that opens another one.
    options : LoadOptions, optional
        Threads and precision of every engine. With ``pinned=False`` the system alone decides which cores they use with
        the executor ``"threads"``; otherwise callers keep off the cores of the engine's helper threads where possible.
    timeout_s : float, optional
        A segment that runs longer is considered hanging, and its device lost.
    restarts : int
        How many times in a row a worker that died is restarted before its device is lost for good.
    replan : callable, optional
        ``replan(plan, without=[device ids])`` returns another plan of the same model when a device is lost for good;
        the items in flight start again under it. Without it, items that need the device fail.
    nan : str
        ``"refuse"``: feeds that contain NaN are refused before anything runs; ``"allow"``: they are passed on.
    address : str, optional
        Address of the cluster that the executor ``"ray"`` joins.
    guard_every : int or GuardOptions, optional
        Compare every so many items of a stream, the first included, with the whole model, which runs beside the stream
        on one core of this machine. A difference ends the stream with `EngineFailed`. The model is the file that was
        split on this machine, unless `GuardOptions` name another.

    Raises
    ------
    InvalidInput
        For an option that is not valid, and where the model to compare with is not found.
    InvalidPlan
        For a plan whose segments cannot be ordered.
    EngineMissing
        Where an engine that the plan needs is not installed.
    UnknownDevice
        Where this machine does not have a device that the plan needs.
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
        executor: str | ExecutorOpener = "threads",
        options: LoadOptions | None = None,
        *,
        timeout_s: float | None = None,
        restarts: int = DEFAULT_RESTARTS,
        replan: Replan | None = None,
        nan: Nan = "allow",
        address: str | None = None,
        guard_every: int | GuardOptions | None = None,
    ) -> None:
        value: object = plan  # it may come from untyped code
        if not isinstance(value, Plan):
            raise InvalidInput(
                f"expected a Plan, got a {type(value).__name__}", remedy="load one from its folder: Plan.load(folder)"
            )
        if address is not None and executor != "ray":
            raise InvalidInput(
                f"the executor {executor!r} cannot join the cluster at {address}", remedy="use executor='ray'"
            )
        if timeout_s is not None and not (is_number(timeout_s) and 0 < timeout_s < math.inf):
            raise InvalidInput(f"timeout_s is {timeout_s!r}", remedy="pass a number of seconds above 0")
        check_count("restarts", restarts, 0)
        check_choice("nan", nan, get_args(Nan))
        self._nan = nan
        self._assumes_narrow = plan.assumes_narrow_numbers
        settings = ExecutorSettings(options or LoadOptions(), timeout_s, restarts, replan, address)
        self._guard = _open_guard(plan, guard_every) if guard_every is not None else None
        try:
            self._executor = open_executor(executor, plan, settings)
        except BaseException:
            if self._guard is not None:
                self._guard.close()
            raise
        self._recorder = TraceRecorder(self._executor)
        self._callbacks = StreamCallbacks(
            self._check, self._executor.submit, self._executor.run, self._recorder.record, self._guard
        )  # fmt: skip

    @property
    def plan(self) -> Plan:
        """The plan in use; not the original one after a device was lost and replaced."""
        return self._executor.plan

    def run(self, feeds: Arrays) -> Outputs:
        """Compute one item.

        Parameters
        ----------
        feeds : mapping of str to array
            Every input of the model, by name. Arrays are not copied if they are C-ordered.

        Returns
        -------
        dict of str to array
            Every output of the model, in the model's order; the arrays belong to the caller.

        Raises
        ------
        InvalidInput
            For a wrong name, dtype or shape, before anything runs.
        EngineFailed
            Names segment, nodes and device. The session can still be used.
        DeviceLost
            Where a device is lost for good and there is no plan without it.
        """
        self._recorder.restart()
        result = self._executor.run(0, *self._check(feeds))
        self._recorder.record(result)
        return result.outputs

    def submit(self, feeds: Arrays) -> Future[Outputs]:
        """Start one item beside others; see `run`. Do not change its arrays until the future is done."""
        computed = self._executor.submit(0, *self._check(feeds))
        outputs: Future[Outputs] = Future()
        outputs.set_running_or_notify_cancel()
        computed.add_done_callback(lambda done: _copy_outcome(done, outputs, self._recorder))
        return outputs

    async def run_async(self, feeds: Arrays) -> Outputs:
        """Compute one item without blocking the event loop; see `run`."""
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
            Read no further ahead than the window. Do not change an item's arrays until its result is there.
        window : int, optional
            Maximum number of items (or micro-batches) in flight; default: the number of devices plus one.
        on_error : str
            For an item that fails: ``"raise"`` ends the stream, ``"skip"`` leaves the item out, ``"yield"`` yields the
            error in its place. A session that cannot compute anything any more always raises.
        micro_batch : int
            Maximum number of items per run, concatenated along the free dimension that all inputs and outputs share.
        progress : callable, optional
            Called as ``progress(done, total, text)`` after each item.

        Yields
        ------
        dict of str to array
            The outputs of each item, in the order of the items.

        Raises
        ------
        InvalidInput, EngineFailed
            For an item, after the results of those before it.
        """
        size = _window_size(self.plan, window, on_error)
        check_count("micro_batch", micro_batch, 1)
        if micro_batch > 1:
            check_batchable(self.plan)
        check_iterable(items, "__iter__", "__getitem__")
        outcomes = stream(items, self._callbacks, window=size, on_error=on_error, micro_batch=micro_batch)
        return self._traced(outcomes, len(items) if isinstance(items, Sized) else 0, progress)

    def astream(
        self,
        items: Iterable[Arrays] | AsyncIterable[Arrays],
        window: int | None = None,
        *,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Outputs | TrisectError]:
        """As `stream`, for items that may arrive asynchronously, without blocking the event loop."""
        size = _window_size(self.plan, window, on_error)
        check_iterable(items, "__iter__", "__getitem__", "__aiter__")
        self._recorder.restart()
        return astream(items, self._callbacks, window=size, on_error=on_error)

    @property
    def trace(self) -> Trace:
        """The measured events of the last `run` or `stream`; of a long stream the last part."""
        return self._recorder.trace()

    @property
    def incidents(self) -> tuple[Event, ...]:
        """Faults, restarts and new plans since the session was opened; of very many the last."""
        return tuple(self._executor.incidents())

    def close(self) -> None:
        """Free the devices' memory; a second call does nothing."""
        self._executor.close()
        if self._guard is not None:
            self._guard.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, feeds: Arrays) -> tuple[Outputs, ConversionLog]:
        """Return an item's feeds in the form that the model takes, and the conversions to that form."""
        value: object = feeds  # it may come from untyped code
        if type(value) is not dict and not isinstance(value, Mapping):
            names = ", ".join(spec.name for spec in self.plan.inputs)
            raise InvalidInput(
                f"expected feeds as a dict, got a {type(value).__name__}", remedy=f"pass a dict with arrays for {names}"
            )
        log = ConversionLog()
        checked = check_feeds(self.plan.inputs, feeds, log, self.plan.fixed_inputs)
        if self._nan == "refuse":
            _refuse_nan(checked)
        if self._assumes_narrow:
            _refuse_wide(checked)
        return checked, log

    def _traced(
        self, outcomes: Iterator[Outputs | TrisectError], total: int, progress: Progress
    ) -> Iterator[Outputs | TrisectError]:
        self._recorder.restart()
        for number, outcome in enumerate(outcomes, 1):
            progress(number, total, f"item {number}")
            yield outcome


def _open_guard(plan: Plan, every: int | GuardOptions) -> StreamGuard:
    options = every if isinstance(every, GuardOptions) else GuardOptions(every)
    check_count("guard_every", options.every, 1)
    return StreamGuard(plan, options, _run_alone)


def _run_alone(plan: Plan, feeds: Arrays) -> Outputs:
    with Session(plan) as session:
        return session.run(feeds)


def _copy_outcome(computed: Future[ItemResult], outputs: Future[Outputs], recorder: TraceRecorder) -> None:
    error = computed.exception()
    if error is not None:
        outputs.set_exception(error)
        return
    recorder.record(computed.result())
    outputs.set_result(computed.result().outputs)


def _refuse_nan(feeds: Outputs) -> None:
    for name, array in feeds.items():
        # Kind V holds the small floats that numpy itself does not have.
        if array.dtype.kind in "fcV" and np.isnan(array).any():
            raise InvalidInput(
                f"input {name!r} contains NaN", remedy="replace it, or open the session with nan='allow'"
            )


def _refuse_wide(feeds: Outputs) -> None:
    """Refuse numbers that need more than 32 bits, which the plan was made without."""
    for name, array in feeds.items():
        limit = _NARROW_LIMITS.get(array.dtype.name)
        if limit is None:
            continue
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        if finite.size and (finite.max() > limit or finite.min() < -limit - 1):
            raise InvalidInput(
                f"input {name!r} contains {max(finite.min(), finite.max(), key=abs)}, which needs more than 32 bits, "
                f"but the plan was made with the assumption {NARROW_NUMBERS!r}",
                remedy="split again without that assumption",
            )


def _window_size(plan: Plan, window: int | None, on_error: OnError) -> int:
    size = len(plan.devices) + 1 if window is None else window
    check_count("window", size, 1)
    check_choice("on_error", on_error, get_args(OnError))
    return size
