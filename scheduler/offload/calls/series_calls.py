"""Latency of a graph in series: a bound, and the placement of the best sequence of calls with the host in between.

Two downsets describe a call: what is done before it, and after it. Where it runs a separator, all else waits, and its
load is the work in between plus what crosses its two ends. The remainder of a block, between two such calls, runs on
the host, which takes the longest of its paths; the bound also lets accelerators run it, each path for itself. Both are
dynamic programmes over blocks and numbers of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ...problem.search_time_limit import TimeLimit
from ..offload_instance import OffloadInstance
from .series_blocks import BlockPath, SeriesBlock, SeriesBlocks, series_blocks

_BEAM_CALLS = 400
_BEAM_ENDS = 1_000
"""Most promising downsets of a block at which a call ends, and the next one begins, that the placement considers."""
_Times = NDArray[np.float64]


def best_series(instance: OffloadInstance, clock: TimeLimit) -> tuple[float, list[int] | None]:
    """Return a bound of the latency, and a placement; zero and None where the graph is not in series, or time is up.

    Examples
    --------
    A chain of two tasks that do not fit on one accelerator: the tensor between them is sent and fetched.

    >>> from trisect.scheduler.offload.offload_instance import Net, OffloadStep
    >>> steps = (OffloadStep(0, 9.0, 1.0, (), (1,)), OffloadStep(1, 9.0, 1.0, (0,), ()))
    >>> instance = OffloadInstance((("a",), ("b",)), [9.0, 9.0], [1.0, 1.0], [5.0, 5.0], [Net(0, (1,), 3.0)], [[], [0]],
    ...                     [[1], []], 1, 2, 8.0, ("cpu:0", "npu:0", "npu:1"), steps)
    >>> best_series(instance, TimeLimit(5.0))
    (8.0, [1, 2])
    """
    series = series_blocks(instance, clock)
    if series is None:
        return 0.0, None
    tables = [[_path_times(instance, series, path) for path in block.paths] for block in series.blocks]
    remaining = _remaining(instance, series, tables, clock)
    if remaining is None:
        return 0.0, None
    bound = float(remaining.from_end[0].min())
    return (bound if bound < inf else 0.0), _placement(instance, series, tables, remaining, clock)


@dataclass(frozen=True)
class _PathTimes:
    """Least times of a path from one position to another."""

    on_host: _Times
    with_calls: _Times
    """With any number of calls, each of which runs an interval of the path."""


def _path_times(instance: OffloadInstance, series: SeriesBlocks, path: BlockPath) -> _PathTimes:
    count = len(path.groups)
    host = np.full((count + 1, count + 1), inf)
    call = np.full((count + 1, count + 1), inf)
    for i in range(count + 1):
        host[i, i] = 0.0
        host[i, i + 1 :] = np.cumsum([series.host_time[g] for g in path.groups[i:]])
        if i < count:
            work = np.cumsum([instance.acc_time[g] for g in path.groups[i:]])
            call[i, i + 1 :] = work + path.moved[i] + np.array(path.moved[i + 1 :])
    mixed = host.copy()
    for i in range(count - 1, -1, -1):
        first = np.minimum(call[i], np.where(np.arange(count + 1) == i + 1, host[i], inf))
        mixed[i, i + 1 :] = (first[i + 1 :, None] + mixed[i + 1 :, i + 1 :]).min(axis=0)
    return _PathTimes(host, mixed)


@dataclass(frozen=True)
class _Remaining:
    """Bounds of the time that is left, by downset and number of calls left."""

    from_end: _Times
    """Once a call has ended that ran the last separator, or the host has run it."""
    from_begin: _Times
    """Once all of the downset is done, with a call as the next to run."""


def _remaining(
    instance: OffloadInstance, series: SeriesBlocks, tables: list[list[_PathTimes]], clock: TimeLimit
) -> _Remaining | None:
    sets, blocks = series.sets, series.blocks
    from_end = np.full((len(sets.acc), instance.accelerators + 1), inf)
    from_begin = np.full(from_end.shape, inf)
    from_begin[blocks[-1].rows[-1]] = 0.0
    for number in reversed(range(len(blocks))):
        if clock.is_over():
            return None
        block = blocks[number]
        rows = block.rows
        if block.open_from < len(blocks):
            later = np.concatenate([other.rows for other in blocks[block.open_from :]])
            ends = later[np.argsort(series.size[later], kind="stable")]
            least = np.minimum.accumulate(from_end[ends] + (sets.alone[ends] + sets.acc[ends])[:, None], axis=0)
            last = np.searchsorted(series.size[ends], series.size[rows] + series.capacity, side="right") - 1
            can_call = last >= 0
            begin = rows[can_call]
            reached = least[last[can_call], :-1] + (sets.alone[begin] - sets.acc[begin])[:, None]
            from_begin[begin, 1:] = reached
        for begin in rows if block.open_from > number + 1 else ():
            ends, loads = series.near_calls[int(begin)]
            if len(ends):
                reached = (from_end[ends, :-1] + loads[:, None]).min(axis=0)
                from_begin[begin, 1:] = np.minimum(from_begin[begin, 1:], reached)
        if number + 1 < len(blocks):
            following = blocks[number + 1]
            assert following.separator is not None
            on_host = from_end[following.rows[0]] + series.host_time[following.separator]
            from_begin[rows[-1]] = np.minimum(from_begin[rows[-1]], on_host)
        from_begin[rows] = np.minimum.accumulate(from_begin[rows], axis=1)
        from_end[rows] = _through_block(block, tables[number], from_begin[rows])
    return _Remaining(from_end, from_begin)


def _through_block(block: SeriesBlock, tables: list[_PathTimes], from_begin: _Times) -> _Times:
    """Return the time left from each downset of a block, from the time left where the next call begins."""
    through = np.zeros(from_begin.shape)
    for path, times in zip(block.paths, tables, strict=True):
        count = len(path.groups)
        begin = np.full((count + 1, from_begin.shape[1]), inf)
        np.minimum.at(begin, path.position, from_begin)
        left = (times.on_host[:, :, None] + begin[None]).min(axis=1)
        with_calls = (times.with_calls[:, :, None] + begin[None]).min(axis=1)
        left[:, 1:] = np.minimum(left[:, 1:], with_calls[:, :-1])
        through = np.maximum(through, left[path.position])
    # Without a path the block is empty: the next call begins where the one before has ended.
    return np.minimum(from_begin, through) if block.paths else from_begin


def _placement(
    instance: OffloadInstance,
    series: SeriesBlocks,
    tables: list[list[_PathTimes]],
    remaining: _Remaining,
    clock: TimeLimit,
) -> list[int] | None:
    """Return the placement of the best sequence of calls that run separators, with the rest on the host."""
    sets, blocks = series.sets, series.blocks
    search = _Sequences.empty(len(sets.acc), instance.accelerators)
    search.ended[blocks[0].rows[0], 0] = 0.0
    for number, block in enumerate(blocks):
        if clock.is_over():
            return None
        rows = block.rows
        before = [other.rows for other in blocks[:number] if other.open_from <= number]
        if before:
            earlier = np.concatenate(before)
            begins = earlier[np.argsort(-series.size[earlier], kind="stable")]
            value = search.begun[begins] + (sets.alone[begins] - sets.acc[begins])[:, None]
            least = np.minimum.accumulate(value, axis=0)
            origin = np.maximum.accumulate(np.where(value <= least, np.arange(len(begins))[:, None], 0), axis=0)
            last = np.searchsorted(-series.size[begins], series.capacity - series.size[rows], side="right") - 1
            ends, last = rows[last >= 0], last[last >= 0]
            reached = least[last, :-1] + (sets.alone[ends] + sets.acc[ends])[:, None]
            search.end_calls(ends, reached, begins[origin[last, :-1]])
        if block.separator is not None:
            on_host = search.begun[blocks[number - 1].rows[-1]] + series.host_time[block.separator]
            is_better = on_host < search.ended[rows[0]]
            search.ended[rows[0]] = np.where(is_better, on_host, search.ended[rows[0]])
            search.call_from[rows[0]] = np.where(is_better, -1, search.call_from[rows[0]])
        search.begun[rows] = search.ended[rows]
        search.host_from[rows] = rows[:, None]
        _run_block(series, block, tables[number], remaining, search)
        for begin in rows if block.open_from > number + 1 else ():
            ends, loads = series.near_calls[int(begin)]
            search.end_calls(ends, search.begun[begin, :-1] + loads[:, None], begin)
    return _traced(instance, series, search)


@dataclass(frozen=True)
class _Sequences:
    """The shortest sequences of calls, by downset and number of calls, and the downsets that they come from."""

    ended: _Times
    """Until the call that runs the last separator has ended, or the host has run it."""
    begun: _Times
    """Until all of the downset is done, so that the next call may begin."""
    call_from: NDArray[np.int64]
    """Where that call began; -1 where the host runs the separator."""
    host_from: NDArray[np.int64]

    @staticmethod
    def empty(downsets: int, accelerators: int) -> _Sequences:
        """Return a table without sequences."""
        shape = downsets, accelerators + 1
        return _Sequences(
            np.full(shape, inf), np.full(shape, inf), np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        )

    def end_calls(self, ends: NDArray[np.int64], reached: _Times, origin: NDArray[np.int64]) -> None:
        """Take over calls that end sooner than those so far, with their begins."""
        is_better = reached < self.ended[ends, 1:]
        self.ended[ends, 1:] = np.where(is_better, reached, self.ended[ends, 1:])
        self.call_from[ends, 1:] = np.where(is_better, origin, self.call_from[ends, 1:])


def _run_block(
    series: SeriesBlocks,
    block: SeriesBlock,
    tables: list[_PathTimes],
    remaining: _Remaining,
    search: _Sequences,
) -> None:
    """Let the host run parts of a block, between the most promising ends and begins of calls."""
    rows = block.rows
    if len(rows) < 2:
        return
    words = series.sets.words[rows]
    ended, begun = search.ended, search.begun
    promise = (ended[rows] + remaining.from_end[rows][:, ::-1]).min(axis=1)
    origins = np.flatnonzero(promise < inf)
    origins = origins[np.argsort(promise[origins], kind="stable")[:_BEAM_CALLS]]
    start = ended[rows].min(axis=0)
    promise = (start + remaining.from_begin[rows][:, ::-1]).min(axis=1)
    ends = np.sort(np.argsort(promise, kind="stable")[:_BEAM_ENDS])
    if ends[-1] != len(rows) - 1:
        ends = np.append(ends, len(rows) - 1)
    for origin in origins:
        reached = ends[((words[ends] & words[origin]) == words[origin]).all(axis=1)]
        longest = np.zeros(len(reached))
        for path, times in zip(block.paths, tables, strict=True):
            longest = np.maximum(longest, times.on_host[path.position[origin], path.position[reached]])
        target = rows[reached]
        finish = ended[rows[origin]][None, :] + longest[:, None]
        is_better = finish < begun[target]
        begun[target] = np.where(is_better, finish, begun[target])
        search.host_from[target] = np.where(is_better, rows[origin], search.host_from[target])


def _traced(instance: OffloadInstance, series: SeriesBlocks, search: _Sequences) -> list[int] | None:
    masks = series.sets.masks
    number = {int(block.rows[0]): i for i, block in enumerate(series.blocks)}
    at = int(series.blocks[-1].rows[-1])
    used = int(search.begun[at].argmin())
    if search.begun[at, used] == inf:
        return None
    where = [0] * instance.count
    while True:
        at = int(search.host_from[at, used])
        before = int(search.call_from[at, used])
        if before >= 0:
            piece = masks[at] & ~masks[before]
            for group in range(instance.count):
                if piece >> group & 1:
                    where[group] = instance.hosts + used - 1
            at, used = before, used - 1
        elif number[at]:
            at = int(series.blocks[number[at] - 1].rows[-1])
        else:
            return where
