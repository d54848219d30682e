"""Shapes of random task graphs.

Only ``random()``, integers and comparisons are used: a seed gives the same edges with every version of Python, on every
machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

Edges = list[tuple[int, int]]
"""Pairs of task numbers, the first before the second."""


def layered(random: Random, n: int, width: int, degree: float) -> Edges:
    """Return layers of 1 to ``2 * width - 1`` tasks, each task reading from some of the layer before.

    Examples
    --------
    >>> edges = layered(Random("x"), 20, 3, 2.0)
    >>> all(a < b for a, b in edges), {b for _, b in edges} >= set(range(5, 20))
    (True, True)
    """
    layers: list[range] = []
    while n > (first := layers[-1].stop if layers else 0):
        layers.append(range(first, min(n, first + 1 + _below(random, 2 * width - 1))))
    edges: set[tuple[int, int]] = set()
    for above, layer in pairwise(layers):
        for task in layer:
            edges.add((above[_below(random, len(above))], task))
            edges.update((other, task) for other in above if random.random() * len(above) < degree - 1)
    return sorted(edges)


def fork_join(random: Random, n: int, width: int, degree: float) -> Edges:
    """Return alternating forks and joins: up to `width` chains of up to `degree` tasks between them.

    Examples
    --------
    >>> fork_join(Random("x"), 4, 2, 1.0)
    [(0, 1), (0, 2), (1, 3), (2, 3)]
    """
    edges: Edges = []
    fork, used = 0, 1
    while used < n:
        ends = []
        for _ in range(width):
            length = 1 + _below(random, max(1, int(degree)))
            last = fork
            for _ in range(length):
                if used >= n - 1:
                    break
                edges.append((last, used))
                last, used = used, used + 1
            if last != fork:
                ends.append(last)
        edges += [(end, used) for end in ends or [fork]]
        fork, used = used, used + 1
    return sorted(edges)


def series_parallel(random: Random, n: int, width: int, degree: float) -> Edges:
    """Return a graph of n tasks, grown by replacing edges by a task in series or by tasks in parallel.

    Examples
    --------
    >>> series_parallel(Random("x"), 3, 2, 2.0)
    [(0, 1), (1, 2)]
    """
    if n < 3:
        return [(i, i + 1) for i in range(n - 1)]
    edges = [(0, 1)]
    count = 2
    while count < n:
        at = _below(random, len(edges))
        first, last = edges[at]
        branches = min(n - count, 1 if random.random() * degree < 1 else 2 + _below(random, max(1, width - 1)))
        edges[at] = edges[-1]
        edges.pop()
        for task in range(count, count + branches):
            edges += [(first, task), (task, last)]
        count += branches
    return _renumbered(edges, n)


def erdos_renyi(random: Random, n: int, width: int, degree: float) -> Edges:
    """Return a graph in which each pair of tasks is an edge with equal probability, `degree` successors on average.

    Examples
    --------
    >>> len(erdos_renyi(Random("x"), 100, 0, 2.0)) in range(150, 250)
    True
    """
    probability = 2 * degree / max(1, n - 1)
    return [(a, b) for a in range(n) for b in range(a + 1, n) if random.random() < probability]


SHAPES: dict[str, Callable[[Random, int, int, float], Edges]] = {
    "layered": layered,
    "fork-join": fork_join,
    "series-parallel": series_parallel,
    "erdos-renyi": erdos_renyi,
}
"""Name -> function of the generator, the number of tasks, the width and the degree."""


def _below(random: Random, limit: int) -> int:
    return int(random.random() * limit)


def _renumbered(edges: Edges, n: int) -> Edges:
    """Return the same graph, its tasks numbered in topological order."""
    waiting = [0] * n
    following: list[list[int]] = [[] for _ in range(n)]
    for a, b in sorted(edges):
        waiting[b] += 1
        following[a].append(b)
    order = [task for task in range(n) if not waiting[task]]
    for task in order:  # grows during iteration
        for other in following[task]:
            waiting[other] -= 1
            if not waiting[other]:
                order.append(other)
    number = {task: i for i, task in enumerate(order)}
    return sorted((number[a], number[b]) for a, b in edges)
