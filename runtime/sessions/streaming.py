"""Keeps a window of items in flight and gives their results in order, whatever becomes of single ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import TrisectError
from ..executors import Result
from ..tensors.conversions import Conversion
from ..tensors.tensor_spec import Arrays
from .item_batching import fit_together, join, part

OnError = Literal["raise", "skip", "yield"]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ways:
    """How a stream gets its items computed."""

    check: Callable[[Arrays], tuple[Arrays, Sequence[Conversion]]]
    """Gives an item's feeds as the model wants them, and their conversions; what it raises is that item's error."""
    submit: Callable[[int, Arrays, Sequence[Conversion]], Future[Result]]
    """Starts one; what it raises ends the stream."""
    run: Callable[[int, Arrays, Sequence[Conversion]], Result]
    """The same, done at once."""
    keep: Callable[[Result], None]
    """Is shown each result."""


@dataclass(frozen=True)
class _Group:
    """Items that are computed together, or the error of a single one."""

    number: int
    items: list[Arrays]
    outcome: Future[Result] | TrisectError | None
    conversions: Sequence[Conversion] = ()


def stream(
    items: Iterable[Arrays], ways: Ways, *, window: int, on_error: OnError, micro_batch: int
) -> Iterator[Outputs | TrisectError]:
    """Results of items in their order; see `Session.stream`."""
    flying: deque[_Group] = deque()
    groups = _groups(iter(items), ways, micro_batch, alone=window == 1)
    ended: Exception | None = None
    more = True
    try:
        while more or flying:
            while more and len(flying) < window:
                try:
                    flying.append(next(groups))
                except StopIteration:
                    more = False
                except Exception as error:  # the items before it are still owed
                    more, ended = False, error
            if flying:
                for found in _taken(flying.popleft(), ways):
                    if not isinstance(found, TrisectError) or on_error == "yield":
                        yield found
                    elif on_error == "raise":
                        raise found
    finally:
        # Their feeds are the caller's, who may use the memory again as soon as this returns.
        wait([group.outcome for group in flying if isinstance(group.outcome, Future)])
    if ended is not None:
        raise ended


def _groups(items: Iterator[Arrays], ways: Ways, most: int, *, alone: bool) -> Iterator[_Group]:
    """Items, together where they fit, and on their way."""
    number = 0
    group: list[Arrays] = []
    conversions: list[Conversion] = []

    def sent() -> _Group:
        outcome = None if alone else ways.submit(number, join(group), tuple(conversions))
        return _Group(number, list(group), outcome, tuple(conversions))

    def clear() -> None:
        group.clear()
        conversions.clear()

    for given in items:
        try:
            feeds, converted = ways.check(given)
        except TrisectError as error:
            if group:
                yield sent()
                number += len(group)
                clear()
            yield _Group(number, [], error)
            number += 1
            continue
        if group and not fit_together(group[0], feeds):
            yield sent()
            number += len(group)
            clear()
        group.append(feeds)
        conversions.extend(converted)
        if len(group) == most:
            yield sent()
            number += len(group)
            clear()
    if group:
        yield sent()


def _taken(group: _Group, ways: Ways) -> Iterator[Outputs | TrisectError]:
    if isinstance(group.outcome, TrisectError):
        yield group.outcome
        return
    try:
        flown = group.outcome
        result = flown.result() if flown is not None else ways.run(group.number, join(group.items), group.conversions)
        found: list[Outputs] = part(group.items, result.outputs)
    except TrisectError as error:
        if len(group.items) == 1:
            yield error
        else:  # one of them may be to blame: the others must not pay for it
            for index, item in enumerate(group.items):
                yield from _taken(_Group(group.number + index, [item], None), ways)
        return
    ways.keep(result)
    yield from found


async def astream(
    items: Iterable[Arrays] | AsyncIterable[Arrays], ways: Ways, *, window: int, on_error: OnError
) -> AsyncIterator[Outputs | TrisectError]:
    """As `stream`, without a thread that waits."""
    flying: deque[asyncio.Future[Result]] = deque()
    number = 0
    try:
        async for given in items if isinstance(items, AsyncIterable) else _asynchronous(items):
            if len(flying) == window:
                async for found in _landed(flying.popleft(), ways, on_error):
                    yield found
            flying.append(_begun(number, given, ways))
            number += 1
        while flying:
            async for found in _landed(flying.popleft(), ways, on_error):
                yield found
    finally:
        await asyncio.gather(*flying, return_exceptions=True)


def _begun(number: int, given: Arrays, ways: Ways) -> asyncio.Future[Result]:
    try:
        feeds, conversions = ways.check(given)
    except TrisectError as error:
        refused: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused
    return asyncio.wrap_future(ways.submit(number, feeds, conversions))


async def _landed(
    future: asyncio.Future[Result], ways: Ways, on_error: OnError
) -> AsyncIterator[Outputs | TrisectError]:
    try:
        result = await asyncio.shield(future)
    except TrisectError as error:
        if on_error == "raise":
            raise
        if on_error == "yield":
            yield error
        return
    ways.keep(result)
    yield result.outputs


async def _asynchronous(items: Iterable[Arrays]) -> AsyncIterator[Arrays]:
    for given in items:
        yield given
