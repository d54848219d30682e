"""Computes a stream of items, several at a time, and yields the results in order, also when some items fail."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ..checks.stream_guard import StreamGuard
from ..errors import TrisectError
from ..executors import ItemResult
from ..tensors.conversions import Conversion
from ..tensors.tensor_spec import Arrays
from .item_batching import can_concatenate, concatenate, split_outputs

OnError = Literal["raise", "skip", "yield"]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class StreamCallbacks:
    """The functions with which a stream computes its items."""

    check: Callable[[Arrays], tuple[Arrays, Sequence[Conversion]]]
    """Returns an item's feeds in the form that the model takes, and their conversions; its error is the item's."""
    submit: Callable[[int, Arrays, Sequence[Conversion]], Future[ItemResult]]
    """Starts an item; an error that it raises ends the stream."""
    run: Callable[[int, Arrays, Sequence[Conversion]], ItemResult]
    """Computes an item in the calling thread."""
    record: Callable[[ItemResult], None]
    """Is called with each result."""
    guard: StreamGuard | None = None
    """Compares some items with the whole model; its error ends the stream."""


@dataclass(frozen=True)
class _MicroBatch:
    """Items that are computed together, or the error of a single one."""

    number: int
    """Of its first item."""
    items: list[Arrays]
    outcome: Future[ItemResult] | TrisectError | None
    """None = not started yet."""
    conversions: Sequence[Conversion] = ()


def stream(
    items: Iterable[Arrays], callbacks: StreamCallbacks, *, window: int, on_error: OnError, micro_batch: int
) -> Iterator[Outputs | TrisectError]:
    """Yield the results of items in order; see `Session.stream`."""
    in_flight: deque[_MicroBatch] = deque()
    batches = _start_batches(iter(items), callbacks, micro_batch, in_turn=window == 1)
    source_error: Exception | None = None
    has_more = True
    try:
        while has_more or in_flight:
            while has_more and len(in_flight) < window:
                try:
                    in_flight.append(next(batches))
                except StopIteration:
                    has_more = False
                except Exception as error:  # raised below, after the results of the items before it
                    has_more, source_error = False, error
            if in_flight:
                for outcome in _outcomes(in_flight.popleft(), callbacks):
                    if not isinstance(outcome, TrisectError) or on_error == "yield":
                        yield outcome
                    elif on_error == "raise":
                        raise outcome
    finally:
        # The caller may reuse the memory of its feeds as soon as this returns.
        wait([batch.outcome for batch in in_flight if isinstance(batch.outcome, Future)])
    if callbacks.guard is not None:
        callbacks.guard.finish()
    if source_error is not None:
        raise source_error


def _start_batches(
    items: Iterator[Arrays], callbacks: StreamCallbacks, size_max: int, *, in_turn: bool
) -> Iterator[_MicroBatch]:
    """Yield items in batches where their shapes allow it, each started unless they run in turn."""
    number = 0
    batch: list[Arrays] = []
    conversions: list[Conversion] = []

    def started() -> _MicroBatch:
        nonlocal number
        outcome = None if in_turn else callbacks.submit(number, concatenate(batch), tuple(conversions))
        result = _MicroBatch(number, list(batch), outcome, tuple(conversions))
        number += len(batch)
        batch.clear()
        conversions.clear()
        return result

    for item in items:
        try:
            feeds, converted = callbacks.check(item)
        except TrisectError as error:
            if batch:
                yield started()
            yield _MicroBatch(number, [], error)
            number += 1
            continue
        if batch and not can_concatenate(batch[0], feeds):
            yield started()
        batch.append(feeds)
        conversions.extend(converted)
        if len(batch) == size_max:
            yield started()
    if batch:
        yield started()


def _outcomes(batch: _MicroBatch, callbacks: StreamCallbacks) -> Iterator[Outputs | TrisectError]:
    """Yield the outputs or the error of each item of a batch."""
    if isinstance(batch.outcome, TrisectError):
        yield batch.outcome
        return
    try:
        if batch.outcome is None:
            result = callbacks.run(batch.number, concatenate(batch.items), batch.conversions)
        else:
            result = batch.outcome.result()
        outputs: list[Outputs] = split_outputs(batch.items, result.outputs)
    except TrisectError as error:
        if len(batch.items) == 1:
            yield error
        else:  # one of the items may be the cause: compute each alone
            for index, item in enumerate(batch.items):
                yield from _outcomes(_MicroBatch(batch.number + index, [item], None), callbacks)
        return
    callbacks.record(result)
    for index, (item, one) in enumerate(zip(batch.items, outputs, strict=True)):
        if callbacks.guard is not None:
            callbacks.guard.check(batch.number + index, item, one)
        yield one


async def astream(
    items: Iterable[Arrays] | AsyncIterable[Arrays], callbacks: StreamCallbacks, *, window: int, on_error: OnError
) -> AsyncIterator[Outputs | TrisectError]:
    """As `stream`, without a thread that waits."""
    in_flight: deque[_AsyncItem] = deque()
    number = 0
    try:
        async for item in items if isinstance(items, AsyncIterable) else _asynchronous(items):
            if len(in_flight) == window:
                async for outcome in _async_outcomes(in_flight.popleft(), callbacks, on_error):
                    yield outcome
            in_flight.append(_AsyncItem(number, item, _start_async(number, item, callbacks)))
            number += 1
        while in_flight:
            async for outcome in _async_outcomes(in_flight.popleft(), callbacks, on_error):
                yield outcome
        if callbacks.guard is not None:
            await asyncio.to_thread(callbacks.guard.finish)
    finally:
        await asyncio.gather(*(item.outcome for item in in_flight), return_exceptions=True)


class _AsyncItem(NamedTuple):
    """An item of an asynchronous stream."""

    number: int
    feeds: Arrays
    outcome: asyncio.Future[ItemResult]


def _start_async(number: int, item: Arrays, callbacks: StreamCallbacks) -> asyncio.Future[ItemResult]:
    try:
        feeds, conversions = callbacks.check(item)
    except TrisectError as error:
        refused: asyncio.Future[ItemResult] = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused
    return asyncio.wrap_future(callbacks.submit(number, feeds, conversions))


async def _async_outcomes(
    item: _AsyncItem, callbacks: StreamCallbacks, on_error: OnError
) -> AsyncIterator[Outputs | TrisectError]:
    try:
        result = await asyncio.shield(item.outcome)
    except TrisectError as error:
        if on_error == "raise":
            raise
        if on_error == "yield":
            yield error
        return
    callbacks.record(result)
    if callbacks.guard is not None:
        feeds, _ = callbacks.check(item.feeds)
        await asyncio.to_thread(callbacks.guard.check, item.number, feeds, result.outputs)
    yield result.outputs


async def _asynchronous(items: Iterable[Arrays]) -> AsyncIterator[Arrays]:
    for item in items:
        yield item
