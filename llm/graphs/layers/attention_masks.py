"""Adds which keys each token sees, from the positions of the tokens; once for all layers that see alike."""

from __future__ import annotations

import numpy as np

from ..weights_file import GraphBuilder


def causal_keys(graph: GraphBuilder, positions: str, prefix: str, first: int = 0) -> str:
    """Return which keys are not behind a token, bool [tokens, keys].

    Parameters
    ----------
    positions : str
        int64 [1, tokens], counted from the beginning of the sequence.
    prefix : str
        Begins the names of nodes: ``PREFIX.keys`` and ``PREFIX.distance`` are the positions of keys, and how far they
        are before each token.
    first : int
        Position of the first key.
    """
    name = f"{prefix}.causal"
    if graph.has(name):
        return name
    one = number(graph, f"{prefix}.one", 1)
    last = graph.node("Gather", [positions, number(graph, f"{prefix}.last", [-1])], f"{prefix}.last_position", axis=1)
    last = graph.node("Reshape", [last, number(graph, f"{prefix}.scalar", [])], f"{prefix}.last_scalar")
    total = graph.node("Add", [last, one], f"{prefix}.total")
    keys = graph.node("Range", [number(graph, f"{prefix}.first", first), total, one], f"{prefix}.keys")
    column = number(graph, f"{prefix}.column", [-1, 1])
    queries = graph.node("Reshape", [positions, column], f"{prefix}.queries")
    distance = graph.node("Sub", [queries, keys], f"{prefix}.distance")
    return graph.node("GreaterOrEqual", [distance, number(graph, f"{prefix}.zero", 0)], name)


def window_keys(graph: GraphBuilder, positions: str, window: int, prefix: str, first: int = 0) -> str:
    """Return which keys a token sees in a sliding window: its own, and those of the ``window - 1`` tokens before it."""
    name = f"{prefix}.{window}"
    if graph.has(name):
        return name
    causal = causal_keys(graph, positions, prefix, first)
    size = number(graph, f"{prefix}.window.{window}", window)
    near = graph.node("Less", [f"{prefix}.distance", size], f"{prefix}.near.{window}")
    return graph.node("And", [causal, near], name)


def number(graph: GraphBuilder, name: str, value: int | list[int]) -> str:
    """Add a constant of whole numbers, int64."""
    return graph.constant(name, np.array(value, np.int64))
