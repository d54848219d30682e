"""Layered layout of a graph, from top to bottom with few crossings, folded into columns.

After Sugiyama, Tagawa and Toda 1981 (https://doi.org/10.1109/TSMC.1981.4308636): layers by the longest path, order
within a layer by the mean position of the neighbours, swept down and up. A network is far deeper than wide; folded, it
fills a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log, sqrt

_SWEEPS = 4
_ASPECT = 1.7
_UNFOLDED_LAYERS_MAX = 12
"""Graphs with at most this many layers are not folded."""
_GAP = 2.0
"""Between columns, in node widths."""
_ROW = 2.0
"""Height of a layer, in node widths."""


def layered(count: int, edges: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return the coordinates of nodes.

    Parameters
    ----------
    count : int
        Number of nodes; they are numbered from 0 in topological order.
    edges : sequence of (int, int)
        From a lower number to a higher one.

    Returns
    -------
    list of (float, float)
        x to the right and y downwards, in node widths; all distinct.

    Examples
    --------
    >>> layered(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    [(0.5, 0.0), (0.0, 2.0), (1.0, 2.0), (0.5, 4.0)]
    """
    parents: list[list[int]] = [[] for _ in range(count)]
    children: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        parents[target].append(source)
        children[source].append(target)
    rows = _rows(_layers(parents), parents, children)
    across = _across(rows, parents)
    return _folded(rows, across)


def _layers(parents: Sequence[Sequence[int]]) -> list[list[int]]:
    depth: list[int] = []
    for above in parents:
        depth.append(1 + max((depth[node] for node in above), default=-1))
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for node, level in enumerate(depth):
        layers[level].append(node)
    return layers


def _rows(
    layers: list[list[int]], parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the rows in drawing order; a layer far wider than the others is broken into several rows."""
    at = {node: float(i) for layer in layers for i, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = parents if down else children
        for layer in layers if down else reversed(layers):
            layer.sort(key=lambda node: (_mean([at[other] for other in neighbours[node]], at[node]), node))
            at.update((node, i - len(layer) / 2) for i, node in enumerate(layer))
    widest = ceil(2 * sqrt(sum(map(len, layers)))) + 4
    return [layer[i : i + widest] for layer in layers for i in range(0, len(layer), widest)]


def _across(rows: Sequence[Sequence[int]], parents: Sequence[Sequence[int]]) -> dict[int, float]:
    """Return x of each node: below its parents, at least one node width from its neighbours in the row."""
    at: dict[int, float] = {}
    for row in rows:
        targets = [_mean([at[node] for node in parents[n]], 0.0) for n in row]
        placed = list(targets)
        for i, j in pairwise(range(len(row))):
            placed[j] = max(placed[j], placed[i] + 1)
        shift = _mean([target - x for target, x in zip(targets, placed, strict=True)], 0.0)
        at.update((node, x + shift) for node, x in zip(row, placed, strict=True))
    return at


def _folded(rows: Sequence[Sequence[int]], across: dict[int, float]) -> list[tuple[float, float]]:
    columns_max = len(rows) if len(rows) > _UNFOLDED_LAYERS_MAX else 1
    columns = min(range(1, columns_max + 1), key=lambda n: _aspect_error(rows, across, n)) if rows else 1
    height = ceil(len(rows) / columns) if rows else 1
    coordinates: dict[int, tuple[float, float]] = {}
    left = 0.0
    for begin in range(0, len(rows), height):
        part = rows[begin : begin + height]
        inside = [across[node] for row in part for node in row]
        for level, row in enumerate(part):
            coordinates.update((node, (left + across[node] - min(inside), level * _ROW)) for node in row)
        left += max(inside) - min(inside) + _GAP
    return [coordinates[node] for node in range(len(coordinates))]


def _aspect_error(rows: Sequence[Sequence[int]], across: dict[int, float], columns: int) -> float:
    """Return the deviation of the aspect ratio from that of a screen."""
    height = ceil(len(rows) / columns)
    width = 0.0
    for begin in range(0, len(rows), height):
        inside = [across[node] for row in rows[begin : begin + height] for node in row]
        width += max(inside) - min(inside) + _GAP
    return abs(log(width / (height * _ROW) / _ASPECT))


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
