"""The exact pipeline: a dynamic programme over the downsets (predecessor-closed sets) of the graph.

A pipeline is a chain of downsets, each device running the difference of two consecutive ones: Tarnawski et al. 2020,
https://doi.org/10.48550/arXiv.2006.16423. Contracted graphs have few downsets. All transitions from one are computed
at once on bit sets, and only those that can still lead to a value below a known one: a state whose remaining work does
not fit on the remaining devices is pruned.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from ...problem.search_time_limit import TimeLimit
from ..offload_instance import OffloadInstance
from ..packing_bound import absorbed_by_host
from .downset_table import downset_table, transitions

_EPSILON = 1e-9
_MAX_DOWNSETS = 150_000


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
    sets = downset_table(instance, clock, _MAX_DOWNSETS)
    if sets is None:
        return False, limit, None
    total, last = len(sets.acc), len(sets.acc) - 1
    k, h = instance.accelerators, instance.hosts
    limit -= _EPSILON * limit
    best = np.full((total, k + 1, h + 1), inf)
    origin = np.full((total, k + 1, h + 1), -1, dtype=np.int64)
    best[0] = 0.0
    absorbed = absorbed_by_host(instance, limit)
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
            successors, loads = transitions(instance, sets, i, limit, least, is_host)
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
    return True, float(best[last][used]), _walk_back(instance, sets.masks, origin, last, used)


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
