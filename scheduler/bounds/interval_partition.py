"""Partition of an order into one interval per device with the least largest load, for any speeds, without transfers.

Whether a load suffices is decided greedily: how far do the devices get along the order, one after the other? Devices
with equal times are interchangeable, so that sixteen equal processors are seventeen cases and not 65,536.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import product
from math import inf

from trisect.runtime.errors import InfeasibleProblem

from ..simulation.list_scheduling import TaskLists

_ROUNDS = 50
_MAX_CASES = 100_000


def interval_placement(lists: TaskLists, overheads: Sequence[float], *, keep_order: bool = False) -> list[int]:
    """Return the device of each task, the tasks in topological order.

    Parameters
    ----------
    overheads : sequence of float
        Per device, the fixed cost of using it.
    keep_order : bool
        Devices in their own order; else in the best one.

    Raises
    ------
    InfeasibleProblem
        When no cut places every task on a device that can run it, or there are too many kinds of devices.

    Examples
    --------
    >>> lists = TaskLists(list("abcd"), ["x", "y"], [(1.0, 3.0)] * 3 + [(9.0, 3.0)], [[]] * 4, [[]] * 4)
    >>> interval_placement(lists, [0.0, 0.0])
    [0, 0, 0, 1]
    """
    high = sum(max((t for t in row if t < inf), default=0.0) for row in lists.times) + max(overheads, default=0.0)
    columns = [_prefix_sums(lists, d, 2 * high + 1) for d in range(len(lists.devices))]
    kinds: list[list[int]] = []
    for d, column in enumerate(columns):
        equal = [kind for kind in kinds if columns[kind[0]] == column and overheads[kind[0]] == overheads[d]]
        if equal and not keep_order:
            equal[0].append(d)
        else:
            kinds.append([d])
    cases = 1
    for kind in kinds:
        cases *= len(kind) + 1
    if cases > _MAX_CASES and not keep_order:
        raise InfeasibleProblem(
            f"expected at most {_MAX_CASES} orders of devices, found {cases} of {len(kinds)} kinds", remedy="use heft"
        )

    def reach(load: float) -> list[tuple[int, int]] | None:
        if keep_order:
            return _in_order(columns, overheads, load)
        return _any_order(columns, overheads, kinds, load)

    low, best = 0.0, reach(high)
    if best is None:
        raise InfeasibleProblem("no cut of the order places every task on a device that can run it", remedy="use heft")
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        pieces = reach(middle)
        if pieces is None:
            low = middle
        else:
            high, best = middle, pieces
    where = [0] * len(lists.tasks)
    begin = 0
    for device, end in best:
        where[begin:end] = [device] * (end - begin)
        begin = max(begin, end)
    return where


def _prefix_sums(lists: TaskLists, device: int, barrier: float) -> list[float]:
    """Return prefix sums of times; a task that cannot run there adds a barrier above any load."""
    sums = [0.0]
    for row in lists.times:
        sums.append(sums[-1] + (row[device] if row[device] < inf else barrier))
    return sums


def _extend(columns: list[list[float]], overheads: Sequence[float], device: int, begin: int, load: float) -> int:
    """Return how far a device gets from a position under a load."""
    sums = columns[device]
    return max(begin, bisect_right(sums, sums[begin] + load - overheads[device]) - 1)


def _in_order(columns: list[list[float]], overheads: Sequence[float], load: float) -> list[tuple[int, int]] | None:
    pieces, at = [], 0
    for device in range(len(columns)):
        at = _extend(columns, overheads, device, at, load)
        pieces.append((device, at))
    return pieces if at == len(columns[0]) - 1 else None


def _any_order(
    columns: list[list[float]], overheads: Sequence[float], kinds: list[list[int]], load: float
) -> list[tuple[int, int]] | None:
    reached: dict[tuple[int, ...], tuple[int, int]] = {(0,) * len(kinds): (0, -1)}
    for case in product(*(range(len(kind) + 1) for kind in kinds)):
        best: tuple[int, int] | None = reached.get(case)
        for k, used in enumerate(case):
            if used:
                before = reached[(*case[:k], used - 1, *case[k + 1 :])][0]
                at = _extend(columns, overheads, kinds[k][used - 1], before, load)
                if best is None or at > best[0]:
                    best = (at, k)
        assert best is not None
        reached[case] = best
    case = tuple(len(kind) for kind in kinds)
    if reached[case][0] < len(columns[0]) - 1:
        return None
    pieces = []
    while any(case):
        end, k = reached[case]
        pieces.append((kinds[k][case[k] - 1], end))
        case = (*case[:k], case[k] - 1, *case[k + 1 :])
    return pieces[::-1]
