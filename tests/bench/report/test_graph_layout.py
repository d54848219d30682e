"""Where nodes are drawn: nowhere twice, children below their parents, and quickly enough for large models."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from trisect.bench.report.graph_layout import layered


def random_edges(count: int, seed: int) -> list[tuple[int, int]]:
    random = Random(seed)
    return [(max(0, n - random.randint(1, 9)), n) for n in range(1, count) for _ in range(random.randint(0, 2))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 50, 700])
def test_no_two_nodes_touch(count: int, seed: int) -> None:
    at = layered(count, random_edges(count, seed))
    assert len(at) == count
    rows: dict[float, list[float]] = {}
    for x, y in at:
        rows.setdefault(y, []).append(x)
    for row in rows.values():
        ordered = sorted(row)
        assert all(b - a > 0.999 for a, b in pairwise(ordered))


def test_a_small_graph_runs_downwards() -> None:
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]
    at = layered(4, edges)
    assert all(at[target][1] > at[source][1] for source, target in edges)


def test_a_chain_is_folded_to_fill_a_screen() -> None:
    at = layered(1000, [(n, n + 1) for n in range(999)])
    width = max(x for x, _ in at) - min(x for x, _ in at)
    height = max(y for _, y in at) - min(y for _, y in at)
    assert 0.8 < width / height < 3.0


def test_a_wide_layer_is_broken_into_rows() -> None:
    at = layered(2001, [(0, n) for n in range(1, 2001)])
    assert max(x for x, _ in at) - min(x for x, _ in at) < 500


def test_nothing_is_drawn_of_nothing() -> None:
    assert layered(0, []) == []
