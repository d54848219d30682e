"""The best sequence of calls: latency when accelerators and host work one after the other.

A dynamic programme over downsets, as for pipelines, but with the sum of the loads instead of the largest: each call of
an accelerator runs the difference of two downsets that fits in its memory, and the host runs single groups in between,
or everything up to the next group that all others precede or follow.
Where branches do not pay for the transfers that running them at the same time costs, this is the optimum; otherwise it
is a good start.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from ...problem.search_time_limit import TimeLimit
from ...problem.task_graph import kahn_order
from ..offload_instance import OffloadInstance
from ..pipelines.downset_table import downset_table, transitions

_MAX_DOWNSETS = 3_000


def best_sequence(instance: OffloadInstance, limit: float, clock: TimeLimit) -> list[int] | None:
    """Return the device of each group in the shortest sequence of calls.

    Parameters
    ----------
    limit : float
        Only a total below it is of interest; the lower, the faster.

    Returns
    -------
    list of int or None
        None where no sequence stays below the limit, there are too many downsets, or time is up.

    Examples
    --------
    Two tasks that do not fit in one memory; the second is hardly slower on the host:

    >>> from trisect.scheduler.offload.offload_instance import Net
    >>> instance = OffloadInstance(
    ...     (("a",), ("b",)), [9.0, 2.0], [1.0, 1.0], [5, 5], [Net(0, (1,), 3.0)], [[], [0]], [[1], []], 1, 2, 8.0, ()
    ... )
    >>> best_sequence(instance, 99.0, TimeLimit(5.0))
    [1, 0]
    """
    sets = downset_table(instance, clock, _MAX_DOWNSETS)
    if sets is None:
        return None
    masks = sets.masks
    if masks[-1].bit_count() < instance.count:
        return None  # colocated groups that wait for each other
    number = {mask: i for i, mask in enumerate(masks)}
    preds = [sum(1 << p for p in row) for row in instance.preds]
    last = len(masks) - 1
    total = np.full((len(masks), instance.accelerators + 1), inf)
    origin = np.full(total.shape, -1, dtype=np.int64)
    called = np.zeros(total.shape, dtype=bool)
    total[0] = 0.0
    narrow = _narrow_downsets(preds)
    for i, mask in enumerate(masks[:-1]):
        if clock.is_over():
            return None
        row = total[i]
        if row.min() >= limit:
            continue
        if instance.hosts:
            on_host = [
                (mask | 1 << group, instance.host_time[group])
                for group, before in enumerate(preds)
                if not (mask >> group & 1 or before & ~mask)
            ]
            until = next((end for end in narrow if end & ~mask), None)
            if until is not None:
                on_host.append((until, _longest_path(instance, until & ~mask)))
            for grown, time in on_host:
                j = number[grown]
                reached = row + time
                better = reached < total[j]
                total[j][better] = reached[better]
                origin[j][better], called[j][better] = i, False
        following, loads = transitions(instance, sets, i, limit - float(row.min()), 0.0, False)
        if not len(following):
            continue
        reached = row[None, :-1] + loads[:, None]
        old = total[following, 1:]
        better = reached < old
        total[following, 1:] = np.where(better, reached, old)
        origin[following, 1:] = np.where(better, i, origin[following, 1:])
        called[following, 1:] = np.where(better, True, called[following, 1:])
    if not (total[last] < limit).any():
        return None
    where = [0] * instance.count
    at, used = last, int(total[last].argmin())
    while at:
        before, is_call = int(origin[at, used]), bool(called[at, used])
        if is_call:
            used -= 1
            piece = masks[at] & ~masks[before]
            for group in range(instance.count):
                if piece >> group & 1:
                    where[group] = instance.hosts + used
        at = before
    return where


def _narrow_downsets(preds: Sequence[int]) -> list[int]:
    """Return the downsets that end in one group which all groups precede or follow, the smallest first."""
    before = [0] * len(preds)
    after = [0] * len(preds)
    order = _order(preds)
    for group in order:
        for other in range(len(preds)):
            if preds[group] >> other & 1:
                before[group] |= before[other] | 1 << other
    for group in reversed(order):
        for other in range(len(preds)):
            if preds[group] >> other & 1:
                after[other] |= after[group] | 1 << group
    whole = (1 << len(preds)) - 1
    narrow = [before[g] | 1 << g for g in order if before[g] | 1 << g | after[g] == whole]
    return sorted({*narrow, whole}, key=int.bit_count)


def _order(preds: Sequence[int]) -> list[int]:
    """Return a topological order; predecessors as bit sets."""
    return kahn_order({g: [h for h, before in enumerate(preds) if before >> g & 1] for g in range(len(preds))})


def _longest_path(instance: OffloadInstance, inside: int) -> float:
    """Return the time of some groups on the host, which runs independent ones at the same time."""
    finish: dict[int, float] = {}

    def finished(group: int) -> float:
        if group not in finish:
            begin = max((finished(p) for p in instance.preds[group] if inside >> p & 1), default=0.0)
            finish[group] = begin + instance.host_time[group]
        return finish[group]

    return max((finished(group) for group in range(instance.count) if inside >> group & 1), default=0.0)
