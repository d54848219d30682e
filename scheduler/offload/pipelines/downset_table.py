"""The downsets (predecessor-closed sets) of a graph as bit sets, and what a device costs that runs from one to another.

Contracted graphs have few downsets. All transitions from one are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ...problem.search_time_limit import TimeLimit
from ..offload_instance import OffloadInstance

_WORD = 64


@dataclass(frozen=True)
class DownsetTable:
    """All downsets, sorted by work on an accelerator, then by size: a superset follows its subsets."""

    words: NDArray[np.uint64]
    """Bit sets: one row per downset, bit g for group g."""
    acc: NDArray[np.float64]
    host: NDArray[np.float64]
    size: NDArray[np.float64]
    no_acc: NDArray[np.int64]
    """Number of groups inside that no accelerator can run."""
    no_host: NDArray[np.int64]
    alone: NDArray[np.float64]
    """Transfer cost of a device that runs exactly this downset."""

    @property
    def masks(self) -> list[int]:
        """The downsets as integers."""
        return [int.from_bytes(row.tobytes(), "little") for row in self.words]

    def at(self, rows: NDArray[np.int64]) -> DownsetTable:
        """Return a table of some downsets, given by rows in ascending order."""
        return DownsetTable(
            self.words[rows],
            self.acc[rows],
            self.host[rows],
            self.size[rows],
            self.no_acc[rows],
            self.no_host[rows],
            self.alone[rows],
        )


def downset_table(instance: OffloadInstance, clock: TimeLimit, max_count: int) -> DownsetTable | None:
    """Return all downsets; None where there are more than a number, or time is up."""
    masks = _enumerate(instance, clock, max_count)
    return None if masks is None else _describe(instance, masks)


def _enumerate(instance: OffloadInstance, clock: TimeLimit, max_count: int) -> list[int] | None:
    preds = [sum(1 << p for p in instance.preds[g]) for g in range(instance.count)]
    ready = sum(1 << g for g in range(instance.count) if not preds[g])
    level = {0: ready}
    downsets = [0]
    while level:
        following: dict[int, int] = {}
        for mask, ready in level.items():
            rest = ready
            while rest:
                bit = rest & -rest
                rest ^= bit
                grown = mask | bit
                if grown not in following:
                    freed = 0
                    for s in instance.succs[bit.bit_length() - 1]:
                        if preds[s] & ~grown == 0:
                            freed |= 1 << s
                    following[grown] = ready ^ bit | freed
        downsets.extend(following)
        if len(downsets) > max_count or clock.is_over():
            return None
        level = following
    return downsets


def _describe(instance: OffloadInstance, masks: list[int]) -> DownsetTable:
    n = instance.count
    width = max(1, -(-n // _WORD))
    raw = b"".join(mask.to_bytes(width * 8, "little") for mask in masks)
    words = np.frombuffer(raw, dtype="<u8").reshape(len(masks), width)
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :n]
    no_acc = [g for g, t in enumerate(instance.acc_time) if t == inf]
    no_host = [g for g, t in enumerate(instance.host_time) if t == inf]
    sums = bits @ np.array(
        [
            [0.0 if t == inf else t for t in (acc, host)] + [size]
            for acc, host, size in zip(instance.acc_time, instance.host_time, instance.size, strict=True)
        ]
    ).reshape(n, 3)
    acc = sums[:, 0]
    order = np.lexsort((bits.sum(axis=1, dtype=np.int64), acc.round(9)))
    words, bits, sums = words[order], bits[order], sums[order]
    alone = np.zeros(len(masks))
    for net in instance.nets:
        producer = bits[:, net.producer].astype(bool)
        inside = bits[:, list(net.readers)].sum(axis=1, dtype=np.int64)
        alone += net.cost * np.where(producer, inside < len(net.readers), inside > 0)
    return DownsetTable(
        words=words,
        acc=sums[:, 0].copy(),
        host=sums[:, 1].copy(),
        size=sums[:, 2].copy(),
        no_acc=bits[:, no_acc].sum(axis=1, dtype=np.int64),
        no_host=bits[:, no_host].sum(axis=1, dtype=np.int64),
        alone=alone,
    )


def transitions(
    instance: OffloadInstance, sets: DownsetTable, i: int, limit: float, least: float, is_host: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the downsets that one more device reaches from downset i below a load, and those loads."""
    low = max(i + 1, int(np.searchsorted(sets.acc, least)))
    high = len(sets.acc) if is_host else int(np.searchsorted(sets.acc, sets.acc[i] + limit, side="right"))
    part = slice(low, max(low, high))
    if is_host:
        keep = (sets.host[part] - sets.host[i] < limit) & (sets.no_host[part] == sets.no_host[i])
    else:
        keep = (sets.size[part] - sets.size[i] <= instance.capacity) & (sets.no_acc[part] == sets.no_acc[i])
    successors = np.flatnonzero(keep) + low
    for w in range(sets.words.shape[1]):
        own = sets.words[i, w]
        successors = successors[sets.words[successors, w] & own == own]
    if is_host:
        return successors, sets.host[successors] - sets.host[i]
    loads = sets.acc[successors] - sets.acc[i] + sets.alone[successors]
    mask = int.from_bytes(sets.words[i].tobytes(), "little")
    for net in instance.nets:
        producer_done = bool(mask >> net.producer & 1)
        done = [r for r in net.readers if mask >> r & 1]
        if producer_done == bool(done) and (not producer_done or len(done) == len(net.readers)):
            continue  # all before, or all still to come: counted by `alone`
        readers_left = [r for r in net.readers if not mask >> r & 1]
        reads = np.zeros(len(successors), dtype=bool)
        lacks = np.zeros(len(successors), dtype=bool)
        for r in readers_left:
            inside = _has(sets, successors, r)
            reads |= inside
            lacks |= ~inside
        if producer_done:
            # Alone, the downset would send to missing readers; here another device has sent it, and this one fetches.
            loads += net.cost * (reads.astype(float) - lacks)
        else:
            # A reader precedes its producer (a backward pass): alone, the downset would pay for it in any case.
            producer = _has(sets, successors, net.producer)
            loads += net.cost * (np.where(producer, True, reads).astype(float) - np.where(producer, lacks, True))
    keep = loads < limit
    return successors[keep], loads[keep]


def _has(sets: DownsetTable, rows: NDArray[np.int64], group: int) -> NDArray[np.bool_]:
    bit = np.uint64(1) << np.uint64(group % _WORD)
    contains: NDArray[np.bool_] = (sets.words[rows, group // _WORD] & bit) != 0
    return contains
