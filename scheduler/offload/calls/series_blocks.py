"""The graph in series: groups that all others precede or follow separate it into blocks, one after the other.

A call that runs a separator waits for all before it and delays all after it, so blocks only meet in what the calls at
their boundaries run. A separator that no tensor bypasses is an articulation point: what a call pays at its begin then
does not depend on its end. Between two articulation points, the loads of calls are computed in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from ...problem.search_time_limit import TimeLimit
from ..offload_instance import OffloadInstance
from ..pipelines.downset_table import DownsetTable, downset_table, transitions

_MAX_BITS = 20_000_000
_BITS_PER_S = 5_000_000
"""Of a table of downsets: their number times that of groups; and how many of them a second of the time limit allows."""
_MAX_PATHS = 64
_MAX_PAIRED = 4_000
"""Downsets between two articulation points with other separators in between."""


@dataclass(frozen=True)
class BlockPath:
    """A path through a block, from group to group."""

    groups: tuple[int, ...]
    moved: tuple[float, ...]
    """The cost of moving what each group reads of the one before; first of the separator, last by the next one."""
    position: NDArray[np.int64]
    """Per downset of the block: how many groups of the path are inside."""


@dataclass(frozen=True)
class SeriesBlock:
    """What runs between two separators."""

    separator: int | None
    """The group before the block; None before the first."""
    rows: NDArray[np.int64]
    """The downsets that end in the block: first the one without any of its groups, last the one with all of them."""
    paths: tuple[BlockPath, ...]
    """Its longest chains; if there are many, some of them."""
    open_from: int
    """The first block behind the next articulation point: what calls from here to there pay at their two ends adds up.
    """


@dataclass(frozen=True)
class SeriesBlocks:
    """All blocks of an instance, in order, and its downsets."""

    sets: DownsetTable
    size: NDArray[np.float64]
    """Bytes of each downset; much more than a memory for each group that no accelerator can run."""
    capacity: float
    """Of an accelerator, with a tolerance for rounding."""
    host_time: list[float]
    """The least time from before a group until after it, on the host."""
    blocks: tuple[SeriesBlock, ...]
    near_calls: Mapping[int, tuple[NDArray[np.int64], NDArray[np.float64]]]
    """Per downset: where calls can end that run a separator but no articulation point, and their loads."""


def series_blocks(instance: OffloadInstance, clock: TimeLimit) -> SeriesBlocks | None:
    """Return the blocks; None where there are no separators, too many downsets, or order does not suffice.

    Order does not suffice where a backward pass runs against it, where colocated groups wait for each other, or where
    a step of a group does not wait for all that the group waits for.
    """
    host_time = _times_through(instance)
    if host_time is None:
        return None
    max_bits = int(min(_MAX_BITS, _BITS_PER_S * clock.seconds))
    sets = downset_table(instance, clock, max_bits // max(1, instance.count))
    if sets is None:
        return None
    bits = np.unpackbits(sets.words.view(np.uint8), axis=1, bitorder="little")[:, : instance.count]
    counts = bits.sum(axis=1, dtype=np.int64)
    if not instance.count or counts.max() < instance.count:
        return None
    separators = _separators(instance)
    if not separators:
        return None
    block_of = bits[:, separators].sum(axis=1, dtype=np.int64)
    depth = _depth(instance, separators)
    bypassed = {
        number
        for net in instance.nets
        for number in range(depth[net.producer] + (net.producer in separators), max(depth[r] for r in net.readers))
    }
    open_from = len(separators) + 1
    blocks: list[SeriesBlock] = []
    for number in reversed(range(len(separators) + 1)):
        rows = np.flatnonzero(block_of == number)
        rows = rows[np.argsort(counts[rows], kind="stable")]
        inside = {g for g in range(instance.count) if depth[g] == number and g not in separators}
        ends = (separators[number - 1] if number else None, separators[number] if number < len(separators) else None)
        paths = tuple(
            BlockPath(path, _moved(instance, path, *ends), bits[rows][:, list(path)].sum(axis=1, dtype=np.int64))
            for path in islice(_paths(instance, inside), _MAX_PATHS)
        )
        blocks.append(SeriesBlock(ends[0], rows, paths, open_from))
        if number and number - 1 not in bypassed:
            open_from = number
    capacity = instance.capacity if instance.capacity < inf else sum(instance.size) + 1.0
    size = sets.size + 2 * capacity * sets.no_acc
    blocks.reverse()
    near_calls: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for number in range(len(blocks)):
        near = [block for block in blocks if block.open_from == blocks[number].open_from]
        if len(near) > 1 and near[0] is blocks[number]:
            if sum(len(block.rows) for block in near) > _MAX_PAIRED:
                return None
            near_calls.update(_near_calls(instance, sets, near, block_of, clock))
    if clock.is_over():
        return None
    return SeriesBlocks(sets, size, capacity * (1 + 1e-12), host_time, tuple(blocks), near_calls)


def _near_calls(
    instance: OffloadInstance,
    sets: DownsetTable,
    near: Sequence[SeriesBlock],
    block_of: NDArray[np.int64],
    clock: TimeLimit,
) -> Iterator[tuple[int, tuple[NDArray[np.int64], NDArray[np.float64]]]]:
    """Yield downsets between two articulation points, with ends and loads of calls that run another separator."""
    rows = np.sort(np.concatenate([block.rows for block in near]))
    part = sets.at(rows)
    for i, row in enumerate(rows):
        if clock.is_over():
            return
        ends, loads = transitions(instance, part, i, inf, 0.0, False)
        is_later = block_of[rows[ends]] > block_of[row]
        yield int(row), (rows[ends][is_later], loads[is_later])


def _moved(
    instance: OffloadInstance, path: Sequence[int], separator: int | None, following: int | None
) -> tuple[float, ...]:
    chain = (separator, *path, following)
    cost: dict[tuple[int, int], float] = {}
    members = set(chain)
    for net in instance.nets:
        if net.producer in members:
            for reader in net.readers:
                cost[net.producer, reader] = cost.get((net.producer, reader), 0.0) + net.cost
    return tuple(0.0 if one is None or other is None else cost.get((one, other), 0.0) for one, other in pairwise(chain))


def _separators(instance: OffloadInstance) -> list[int]:
    """Return the groups that all others precede or follow, in order."""
    before = [0] * instance.count
    after = [0] * instance.count
    for g in range(instance.count):  # groups are in topological order
        for p in instance.preds[g]:
            before[g] |= before[p] | 1 << p
    for g in reversed(range(instance.count)):
        for s in instance.succs[g]:
            after[g] |= after[s] | 1 << s
    return [g for g in range(instance.count) if before[g].bit_count() + after[g].bit_count() == instance.count - 1]


def _depth(instance: OffloadInstance, separators: Sequence[int]) -> list[int]:
    """Return how many separators precede each group."""
    last = set(separators)
    depth = [0] * instance.count
    for g in range(instance.count):
        depth[g] = max((depth[p] + (p in last) for p in instance.preds[g]), default=0)
    return depth


def _paths(instance: OffloadInstance, inside: set[int]) -> Iterator[tuple[int, ...]]:
    """Yield the paths through some groups, from those that follow none of them to those that precede none."""
    stack: list[tuple[int, ...]] = [(g,) for g in sorted(inside, reverse=True) if inside.isdisjoint(instance.preds[g])]
    while stack:
        path = stack.pop()
        following = [s for s in instance.succs[path[-1]] if s in inside]
        if following:
            stack.extend((*path, s) for s in reversed(following))
        else:
            yield path


def _times_through(instance: OffloadInstance) -> list[float] | None:
    """Return the least host time from the inputs of a group to its outputs; None where order does not suffice."""
    if any(p >= g for g, before in enumerate(instance.preds) for p in before):
        return None
    order = [set(before) for before in instance.preds]
    members: list[list[int]] = [[] for _ in range(instance.count)]
    has_readers = [False] * len(instance.steps)
    for i, step in enumerate(instance.steps):
        members[step.group].append(i)
        for p in step.preds:
            other = instance.steps[p].group
            if other != step.group:
                has_readers[p] = True
                if other not in order[step.group]:
                    return None
    if any(net.producer not in order[reader] for net in instance.nets for reader in net.readers):
        return None
    times = [_time_through(instance, row, has_readers) for row in members]
    return None if any(time is None for time in times) else [time or 0.0 for time in times]


def _time_through(instance: OffloadInstance, members: Sequence[int], has_readers: Sequence[bool]) -> float | None:
    """Return the least time of a path through a group's steps; None where an input does not delay an output."""
    steps = instance.steps
    inside = set(members)
    exits = [i for i in members if has_readers[i]] or [i for i in members if inside.isdisjoint(steps[i].succs)]
    entries = [i for i in members if any(p not in inside for p in steps[i].preds)]
    starts = [[entry] for entry in entries] or [[i for i in members if inside.isdisjoint(steps[i].preds)]]
    least = inf if members else 0.0
    for origin in starts:
        length: dict[int, float] = {}
        for i in members:
            before = [length[p] for p in steps[i].preds if p in length]
            if before or i in origin:
                length[i] = steps[i].host_time + max(before, default=0.0)
        for end in exits:
            if end not in length:
                return None
            least = min(least, length[end])
    return least
