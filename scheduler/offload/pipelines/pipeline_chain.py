"""The best pipeline along one topological order: fast, and usually optimal or close to it.

Restricting convex pieces to intervals of a linear order leaves a dynamic programme over O(n^2) intervals. Tarnawski et
al. (https://arxiv.org/abs/2006.16423) call it DPL.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

import numpy as np

from ..offload_instance import OffloadInstance

MAX_ORDERS = 400
"""Maximum number of random orders of a search."""


def depth_first_order(instance: OffloadInstance, random: Random | None = None) -> list[int]:
    """Return a topological order that finishes a branch before the next one; a random one with a generator."""
    waiting = [len(p) for p in instance.preds]
    ready = [g for g in range(instance.count) if waiting[g] == 0]
    if random is not None:
        random.shuffle(ready)
    order = []
    while ready:
        group = ready.pop()
        order.append(group)
        following = list(instance.succs[group])
        if random is not None:
            random.shuffle(following)
        for other in following:
            waiting[other] -= 1
            if waiting[other] == 0:
                ready.append(other)
    return order


def best_intervals(
    instance: OffloadInstance, order: Sequence[int], limit: float = inf
) -> tuple[float, list[int]] | None:
    """Cut an order into one interval per device with the least largest load.

    Parameters
    ----------
    order : sequence of int
        Groups, topologically sorted.
    limit : float
        Only loads below it are of interest; the lower, the faster.

    Returns
    -------
    tuple of float and list of int, or None
        Largest load and the device of each group; None where no cut stays below `limit`.
    """
    count, k, h = instance.count, instance.accelerators, instance.hosts
    best = np.full((count + 1, k + 1, h + 1), inf)
    best[0] = 0.0
    start_of = np.full((count + 1, k + 1, h + 1), -1, dtype=np.int64)
    on_host = np.zeros((count + 1, k + 1, h + 1), dtype=bool)
    touching = _touching(instance)
    for i in range(count):
        if not (best[i] < limit).any():
            continue
        acc_loads, host_loads = _interval_loads(instance, order, i, limit, touching)
        for loads, is_host in ((acc_loads, False), (host_loads, True)):
            if not loads:
                continue
            to = slice(i + 1, i + 1 + len(loads))
            source = best[i, :, :-1] if is_host else best[i, :-1, :]
            if source.size == 0:
                continue
            reached = np.maximum(source[None], np.asarray(loads)[:, None, None])
            target = (to, slice(None), slice(1, None)) if is_host else (to, slice(1, None), slice(None))
            better = reached < np.minimum(best[target], limit)
            best[target] = np.where(better, reached, best[target])
            start_of[target] = np.where(better, i, start_of[target])
            on_host[target] = np.where(better, is_host, on_host[target])
    if not (best[count] < limit).any():
        return None
    used_k, used_h = (int(v) for v in np.unravel_index(int(best[count].argmin()), best[count].shape))
    value = float(best[count, used_k, used_h])
    where, end = [0] * count, count
    while end > 0:
        start, is_host = int(start_of[end, used_k, used_h]), bool(on_host[end, used_k, used_h])
        used_k, used_h = (used_k, used_h - 1) if is_host else (used_k - 1, used_h)
        for position in range(start, end):
            where[order[position]] = used_h if is_host else h + used_k
        end = start
    return value, where


def _touching(instance: OffloadInstance) -> list[list[int]]:
    touching: list[list[int]] = [[] for _ in range(instance.count)]
    for i, net in enumerate(instance.nets):
        for group in (net.producer, *net.readers):
            touching[group].append(i)
    return touching


def _interval_loads(
    instance: OffloadInstance, order: Sequence[int], start: int, limit: float, touching: list[list[int]]
) -> tuple[list[float], list[float]]:
    """Return the loads of the intervals that begin at `start`, by length: on an accelerator, on a host."""
    acc_loads: list[float] = []
    host_loads: list[float] = []
    work = moved = host = size = 0.0
    readers_inside: dict[int, int] = {}
    producers_inside: set[int] = set()
    for position in range(start, len(order)):
        group = order[position]
        work += instance.acc_time[group]
        host += instance.host_time[group]
        size += instance.size[group]
        if size > instance.capacity:
            work = inf
        if min(work, host) >= limit:
            break
        for n in touching[group]:
            net = instance.nets[n]
            before = _moved(net.cost, n in producers_inside, readers_inside.get(n, 0), len(net.readers))
            if net.producer == group:
                producers_inside.add(n)
            else:
                readers_inside[n] = readers_inside.get(n, 0) + 1
            moved += _moved(net.cost, n in producers_inside, readers_inside.get(n, 0), len(net.readers)) - before
        acc_loads.append(work + moved)
        host_loads.append(host)
    return acc_loads, host_loads


def _moved(cost: float, producer_inside: bool, inside: int, readers: int) -> float:
    """Return what a device pays for a net of which it has some readers or the producer."""
    crosses = inside < readers if producer_inside else inside > 0
    return cost if crosses else 0.0
