"""The exact pipeline: a dynamic programme over the downsets (predecessor-closed sets) of the graph.

A pipeline is a chain of downsets, each device running the difference of two consecutive ones: Tarnawski et al. 2020,
https://doi.org/10.48550/arXiv.2006.16423. Contracted graphs have few downsets. All transitions from one are computed
at once on bit sets, and only those that can still lead to a value below a known one: a state whose remaining work does
not fit on the remaining devices is pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ..problem.search_time_limit import TimeLimit
from .offload_instance import OffloadInstance

_WORD = 64
_EPSILON = 1e-9
_MAX_DOWNSETS = 150_000


@dataclass(frozen=True)
class _Downsets:
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


def best_chain(instance: OffloadInstance, limit: float, clock: TimeLimit) -> tuple[bool, float, list[int] | None]:
    """Search for a pipeline whose largest load is below a limit.

    Parameters
    ----------
    limit : float
        Value of a known placement.

    Returns
    -------
    finished : bool
        False where the time limit or the number of downsets was exceeded: then nothing is proven.
    value : float
        The optimum if it is below `limit`, else `limit`.
    where : list of int or None
        Device of each group, if a better pipeline was found.
    """
    masks = _enumerate(instance, clock)
    if masks is None:
        return False, limit, None
    sets = _describe(instance, masks)
    total, last = len(sets.acc), len(sets.acc) - 1
    k, h = instance.accelerators, instance.hosts
    limit -= _EPSILON * limit
    best = np.full((total, k + 1, h + 1), inf)
    origin = np.full((total, k + 1, h + 1), -1, dtype=np.int64)
    best[0] = 0.0
    absorbed = _host_absorbs(instance, limit)
    # The least work on accelerators that must be done after (a, b) devices, so that the rest fits on the others.
    needed = np.array(
        [[sets.acc[last] - (k - a) * limit - (h - b) * absorbed for b in range(h + 1)] for a in range(k + 1)]
    )
    for i in range(last):
        if clock.is_over():
            return False, limit, None
        state = np.where(sets.acc[i] >= needed - _EPSILON, best[i], inf)
        if not (state < limit).any():
            continue
        for is_host in (False, True):
            source = state[:, :-1] if is_host else state[:-1, :]
            alive = source < limit
            if not alive.any():
                continue
            after = needed[:, 1:] if is_host else needed[1:, :]
            least = after[alive].min() - _EPSILON
            successors, loads = _transitions(instance, sets, i, limit, least, is_host)
            if not len(successors):
                continue
            reached = np.maximum(source[None], loads[:, None, None])
            target = (successors, slice(None), slice(1, None)) if is_host else (successors, slice(1, None), slice(None))
            old = best[target]
            better = reached < np.minimum(old, limit)
            best[target] = np.where(better, reached, old)
            origin[target] = np.where(better, 2 * i + is_host, origin[target])
    if not (best[last] < limit).any():
        return True, limit / (1 - _EPSILON), None
    used = np.unravel_index(int(best[last].argmin()), best[last].shape)
    return True, float(best[last][used]), _walk_back(instance, masks_in_order(sets), origin, last, used)


def masks_in_order(sets: _Downsets) -> list[int]:
    """Return the downsets as integers."""
    return [int.from_bytes(row.tobytes(), "little") for row in sets.words]


def _enumerate(instance: OffloadInstance, clock: TimeLimit) -> list[int] | None:
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
        if len(downsets) > _MAX_DOWNSETS or clock.is_over():
            return None
        level = following
    return downsets


def _describe(instance: OffloadInstance, masks: list[int]) -> _Downsets:
    n = instance.count
    width = max(1, -(-n // _WORD))
    raw = b"".join(mask.to_bytes(width * 8, "little") for mask in masks)
    words = np.frombuffer(raw, dtype="<u8").reshape(len(masks), width)
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :n]
    acc_time = np.array([t if t < inf else 0.0 for t in instance.acc_time])
    acc = bits @ acc_time
    order = np.lexsort((bits.sum(axis=1, dtype=np.int64), acc.round(9)))
    words, bits, acc = words[order], bits[order], acc[order]
    alone = np.zeros(len(masks))
    for net in instance.nets:
        producer = bits[:, net.producer].astype(bool)
        inside = bits[:, list(net.readers)].sum(axis=1, dtype=np.int64)
        alone += net.cost * np.where(producer, inside < len(net.readers), inside > 0)
    return _Downsets(
        words=words,
        acc=acc,
        host=bits @ np.array([t if t < inf else 0.0 for t in instance.host_time]),
        size=bits @ np.array(instance.size),
        no_acc=bits.astype(np.int64) @ np.array([t == inf for t in instance.acc_time], dtype=np.int64),
        no_host=bits.astype(np.int64) @ np.array([t == inf for t in instance.host_time], dtype=np.int64),
        alone=alone,
    )


def _host_absorbs(instance: OffloadInstance, limit: float) -> float:
    """Return the maximum of accelerator work that one host can take over below a load (a fractional knapsack)."""
    items = [(a if a < inf else 0.0, t) for a, t in zip(instance.acc_time, instance.host_time, strict=True) if t < inf]
    items.sort(key=lambda item: item[1] / item[0] if item[0] > 0 else inf)
    taken, left = 0.0, limit
    for acc, host in items:
        if host > left:
            return taken + (acc * left / host if host > 0 else 0.0)
        taken, left = taken + acc, left - host
    return taken


def _transitions(
    instance: OffloadInstance, sets: _Downsets, i: int, limit: float, least: float, is_host: bool
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


def _has(sets: _Downsets, rows: NDArray[np.int64], group: int) -> NDArray[np.bool_]:
    bit = np.uint64(1) << np.uint64(group % _WORD)
    contains: NDArray[np.bool_] = (sets.words[rows, group // _WORD] & bit) != 0
    return contains


def _walk_back(
    instance: OffloadInstance, masks: list[int], origin: NDArray[np.int64], last: int, used: tuple[np.intp, ...]
) -> list[int]:
    where = [0] * instance.count
    (a, b), at = (int(u) for u in used), last
    while at != 0:
        before, is_host = divmod(int(origin[at, a, b]), 2)
        a, b = (a, b - 1) if is_host else (a - 1, b)
        piece = masks[at] & ~masks[before]
        for group in range(instance.count):
            if piece >> group & 1:
                where[group] = b if is_host else instance.hosts + a
        at = before
    return where
