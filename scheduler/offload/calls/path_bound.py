"""A lower bound of the latency: the best execution of one path of the graph, with all tasks that it implies.

Steps of a path run one after the other, on the host or in calls of accelerators. A call that runs two of them runs
everything between them as well (pieces are convex), has to hold it in memory, and fetches and sends what certainly
crosses its boundary. Which steps share a call is a dynamic programme over intervals of the path. With memory for all
and nothing to transfer this is the critical path; where pieces are forced apart, it is far above.
`call_bound` raises it with all that a call must choose about tasks beside the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

import numpy as np
from numpy.typing import NDArray

from ..offload_instance import OffloadInstance

_PATHS = 12
_SPREAD = 0.5


def path_bound(instance: OffloadInstance) -> float:
    """Return the best bound of some paths: the critical one, and others from randomly perturbed times.

    Parameters
    ----------
    instance : OffloadInstance
        With steps in topological order.

    Examples
    --------
    A chain of two tasks that do not fit on one accelerator: the tensor between them is sent and fetched.

    >>> from trisect.scheduler.offload.offload_instance import Net, OffloadStep
    >>> steps = (OffloadStep(0, 9.0, 1.0, (), (1,)), OffloadStep(1, 9.0, 1.0, (0,), ()))
    >>> instance = OffloadInstance((("a",), ("b",)), [9.0, 9.0], [1.0, 1.0], [5.0, 5.0], [Net(0, (1,), 3.0)], [[], [0]],
    ...                     [[1], []], 1, 2, 8.0, ("cpu:0", "npu:0", "npu:1"), steps)
    >>> path_bound(instance)
    8.0
    """
    return best_path(instance)[0]


def best_path(instance: OffloadInstance) -> tuple[float, tuple[int, ...]]:
    """Return the bound of `path_bound`, and the path that it is of."""
    random = Random(0)
    best: tuple[float, tuple[int, ...]] = (0.0, ())
    seen: set[tuple[int, ...]] = set()
    for n in range(_PATHS):
        path = tuple(_longest_path(instance, random if n else None))
        if path and path not in seen:
            seen.add(path)
            best = max(best, (PathExecution(instance, path).least_time()[0], path), key=lambda bounded: bounded[0])
    return best


def _longest_path(instance: OffloadInstance, random: Random | None) -> list[int]:
    """Return the steps of a longest path, each on its fastest device; with random times if asked."""
    steps = instance.steps
    length = [0.0] * len(steps)
    before = [-1] * len(steps)
    for i, step in enumerate(steps):
        for p in step.preds:
            if before[i] < 0 or length[p] > length[before[i]]:
                before[i] = p
        time = min(step.host_time, step.acc_time)
        length[i] = time + max(0.0, length[before[i]] if before[i] >= 0 else 0.0)
        if random is not None:
            length[i] += (time + length[i] / (1 + len(steps))) * random.uniform(0, _SPREAD)
    path = []
    at = max(range(len(steps)), key=lambda i: (length[i], i), default=-1)
    while at >= 0:
        path.append(at)
        at = before[at]
    return path[::-1]


class PathExecution:
    """The least time of a path's steps, one after the other, from bounds of the loads of calls."""

    def __init__(self, instance: OffloadInstance, path: Sequence[int]) -> None:
        self.host_time = [instance.steps[step].host_time if instance.hosts else inf for step in path]
        self.max_calls = min(instance.accelerators, len(path))
        calls = _PathCalls(instance, path)
        self.loads = [calls.from_step(i) for i in range(len(path))]
        """Per step, bounds of the loads of calls that begin with it, by their last step, as far as they fit."""

    def least_time(self) -> tuple[float, list[tuple[int, int]]]:
        """Return the least time, and its calls in reverse order: the first step, and the one after the last."""
        count = len(self.host_time)
        # best[i, k]: the first i steps done, with at most k calls.
        best = np.full((count + 1, self.max_calls + 1), inf)
        begin = np.full(best.shape, -1, dtype=np.int64)
        best[0] = 0.0
        for i, (host_time, loads) in enumerate(zip(self.host_time, self.loads, strict=True)):
            on_host = best[i] + host_time
            begin[i + 1][on_host < best[i + 1]] = -1
            best[i + 1] = np.minimum(best[i + 1], on_host)
            ends = slice(i + 1, i + 1 + len(loads))
            reached = best[i, :-1] + loads[:, None]
            begin[ends, 1:][reached < best[ends, 1:]] = i
            best[ends, 1:] = np.minimum(best[ends, 1:], reached)
        calls = []
        at, used = count, int(best[count].argmin())
        while at and best[count, used] < inf:
            first = int(begin[at, used])
            if first >= 0:
                calls.append((first, at))
                used -= 1
            at = first if first >= 0 else at - 1
        return float(best[count].min()), calls


class _PathCalls:
    """The least times of calls that run an interval of the path and no other step of it."""

    def __init__(self, instance: OffloadInstance, path: Sequence[int]) -> None:
        self.instance = instance
        self.length = len(path)
        after, before = positions(instance, path)
        none = self.length
        # Of each step: the last step of the path before it, and the first one after it.
        self.group = np.array([step.group for step in instance.steps], dtype=np.int64)
        self.behind, self.ahead = np.array(after, dtype=np.int64), np.array(before, dtype=np.int64)
        latest = np.full(instance.count, -1, dtype=np.int64)
        np.maximum.at(latest, self.group, self.behind)
        earliest = np.full(instance.count, none, dtype=np.int64)
        np.minimum.at(earliest, self.group, self.ahead)
        self.acc = np.array(instance.acc_time)
        self.size = np.array(instance.size)
        nets = instance.nets
        self.cost = np.array([net.cost for net in nets])
        self.producer = np.array([net.producer for net in nets], dtype=np.int64)
        self.readers = np.array([r for net in nets for r in net.readers], dtype=np.int64)
        self.begins = np.cumsum([0, *(len(net.readers) for net in nets)])[:-1].astype(np.int64)
        self.read_late = np.array([latest[list(net.readers)].max() for net in nets], dtype=np.int64)
        self.made_early = earliest[self.producer]

    def from_step(self, i: int) -> NDArray[np.float64]:
        """Return the loads of intervals from step i on, by their ends, up to the longest that fits."""
        none = self.length
        first = np.full(self.instance.count, none, dtype=np.int64)
        follows = self.behind >= i
        np.minimum.at(first, self.group[follows], self.ahead[follows])
        first = first.clip(min=i)
        load = np.zeros(none + 1)
        size = np.zeros(none + 1)
        np.add.at(load, first, self.acc)
        np.add.at(size, first, self.size)
        if len(self.cost):
            producer = first[self.producer]
            reads = np.minimum.reduceat(first[self.readers], self.begins)
            # Sent, from the interval that contains its producer on, as long as a reader follows the interval.
            _add_between(load, producer, np.maximum(producer, self.read_late), self.cost)
            # Fetched, from the interval that contains a reader on, until its producer would be inside as well.
            is_before = self.made_early < i
            _add_between(load, reads, np.where(is_before, np.maximum(producer, reads), reads), self.cost)
        load, size = np.cumsum(load)[i:none], np.cumsum(size)[i:none]
        return load[: np.searchsorted(size, self.instance.capacity * (1 + 1e-12), side="right")]


def _add_between(
    load: NDArray[np.float64], begin: NDArray[np.int64], end: NDArray[np.int64], cost: NDArray[np.float64]
) -> None:
    """Add costs to running sums, from each begin up to but not including each end."""
    np.add.at(load, begin, cost)
    np.subtract.at(load, end, cost)


def positions(instance: OffloadInstance, path: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return, per step, the last of the path's steps that it is or follows, and the first that it is or precedes."""
    steps, none = instance.steps, len(path)
    own = {step: position for position, step in enumerate(path)}
    after = [own.get(i, -1) for i in range(len(steps))]
    before = [own.get(i, none) for i in range(len(steps))]
    for i, step in enumerate(steps):
        after[i] = max([after[i], *(after[p] for p in step.preds)])
    for i in reversed(range(len(steps))):
        before[i] = min([before[i], *(before[s] for s in steps[i].succs)])
    return after, before
