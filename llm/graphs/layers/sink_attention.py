"""Adds attention with sinks in standard operators: every head has one more score in its softmax, which adds no value.

ONNX's ``Attention`` has no such input. A key of zeros precedes all others: the mask gives it the score of the sink,
different for each head, and its value is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..decoder_config import DecoderConfig
from ..weights_file import GraphBuilder, Span
from .attention_masks import causal_keys, number, window_keys

_PREFIX = "sink"
_FIRST = -1
"""Position of the sink, before all tokens."""
_MASK_VALUES = {"visible": 0.0, "hidden": -np.inf}


def attention_with_sinks(
    graph: GraphBuilder,
    heads: Mapping[str, str],
    past: Sequence[str],
    sinks: Span,
    positions: str,
    config: DecoderConfig,
    index: int,
) -> str:
    """Add the attention of a layer and its outputs ``present.N.key/value``; return [1, heads, tokens, head dim].

    Parameters
    ----------
    heads : mapping
        ``query``, ``key`` and ``value`` of the new tokens, [1, heads, tokens, head dim].
    past : sequence of str
        Keys and values of earlier tokens, [1, kv heads, past, head dim].
    sinks : Span
        float32 [heads].
    positions : str
        int64 [1, tokens].
    """
    prefix = f"layer.{index}"
    empty = graph.constant("sink.zeros", np.zeros((1, config.kv_heads, 1, config.head_dim), np.float32))
    extended = []
    for earlier, part in zip(past, ("key", "value"), strict=True):
        present = graph.node("Concat", [earlier, heads[part]], f"present.{index}.{part}", axis=2)
        extended.append(graph.node("Concat", [empty, present], f"{prefix}.sink.{part}", axis=2))
    scores = graph.constant(f"{prefix}.sinks", sinks.reshaped(1, config.heads, 1, 1))
    scores = graph.node("Mul", [scores, _is_sink(graph, positions)], f"{prefix}.sink.scores")
    mask = graph.node("Add", [_visible(graph, positions, config.layers[index].window), scores], f"{prefix}.mask")
    inputs = [heads["query"], *extended, mask]
    return graph.node("Attention", inputs, f"{prefix}.attention", scale=config.attention_scale)


def _is_sink(graph: GraphBuilder, positions: str) -> str:
    """Return 1 for the sink and 0 for tokens, float32 [1 + total], once for all layers."""
    if graph.has("sink.is_sink"):
        return "sink.is_sink"
    causal_keys(graph, positions, _PREFIX, _FIRST)
    graph.node("Less", ["sink.keys", number(graph, "sink.zero", 0)], "sink.first_key")
    return graph.node("Cast", ["sink.first_key"], "sink.is_sink", to=1)


def _visible(graph: GraphBuilder, positions: str, window: int | None) -> str:
    """Return 0 for the keys that a token sees, and -inf for others, float32 [tokens, 1 + total], once per window."""
    name = f"sink.mask.{window}"
    if graph.has(name):
        return name
    if window is None:
        seen = causal_keys(graph, positions, _PREFIX, _FIRST)
    else:
        seen = window_keys(graph, positions, window, _PREFIX, _FIRST)
    seen = graph.node("Or", [seen, "sink.first_key"], f"{name}.seen")
    values = [graph.constant(f"sink.{key}", np.array(value, np.float32)) for key, value in _MASK_VALUES.items()]
    return graph.node("Where", [seen, *values], name)
