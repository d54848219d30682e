"""Writes the decoder for compilers that need fixed shapes: some tokens behind a fixed number of cache slots.

The host computes all that depends on token ids and positions: it looks up embeddings and rotations (with a second,
small graph, since Qualcomm's compiler takes no table of bytes), and writes masks. It also stores the keys and values
that a run returns. What remains is matrix products, norms and softmax. RMSNormalization stays one operator: spelled
out, its squares overflow in float16 (a residual of 24,926 was seen), which gives wrong scores without an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from .decoder_config import DecoderConfig
from .layers.decoder_layers import ModelWeights, cache_inputs, embed
from .standard_graph import StandardWriter, rotary_attributes
from .weights_file import GraphBuilder

_OPSET = 23
MASK = "mask"
"""Input with the mask of all layers that see every token; ``mask.N`` is that of windows of N tokens."""


def can_write_static(config: DecoderConfig, weights: ModelWeights) -> bool:
    """Return whether the graph can be written: of attention without sinks and layers without experts only."""
    return config.experts is None and config.delta is None and all(layer.sinks is None for layer in weights.layers)


def write_static(path: Path, config: DecoderConfig, weights: ModelWeights, location: str) -> None:
    """Write the graph next to its weights file.

    Inputs: ``embeddings`` float32 [1, tokens, hidden]; ``cosines.R`` and ``sines.R`` float32 [1, tokens, pairs] for
    each rotary embedding R; ``mask`` or ``mask.WINDOW`` float32 [tokens, keys], to be added to the scores of attention;
    ``past_key_values.N.key/value`` float32 [1, kv heads, slots, head dim]. Outputs: ``logits`` float32 [1, 1,
    vocabulary] of the last token; ``fresh.N.key/value`` float32 [1, kv heads, tokens, head dim]. Keys are the slots,
    then the tokens. The sizes of the symbolic dimensions ``tokens``, ``slots`` and ``keys`` are set at loading.
    """
    graph = GraphBuilder(location)
    _StaticWriter(graph, config, weights).write()
    graph.save(path, config.name, _OPSET)


def write_lookup(path: Path, config: DecoderConfig, weights: ModelWeights, location: str) -> None:
    """Write the graph that looks up the inputs of the static graph that belong to each token.

    Inputs: ``input_ids`` and ``position_ids`` int64 [1, tokens]. Outputs: ``embeddings``, ``cosines.R``, ``sines.R``.
    """
    graph = GraphBuilder(location)
    ids = graph.input("input_ids", TensorProto.INT64, [1, "tokens"])
    positions = graph.input("position_ids", TensorProto.INT64, [1, "tokens"])
    x = embed(graph, weights.embedding, ids, [1, -1, config.hidden], config.embedding_scale)
    graph.node("Identity", [x], "embeddings")
    graph.output("embeddings", TensorProto.FLOAT, [1, "tokens", config.hidden])
    for rope, spans in enumerate(weights.rotary_tables):
        for part, span in zip(("cosines", "sines"), spans, strict=True):
            name = f"{part}.{rope}"
            graph.node("Gather", [graph.constant(f"rope.{name}", span), positions], name)
            graph.output(name, TensorProto.FLOAT, [1, "tokens", span.shape[1]])
    graph.save(path, config.name, _OPSET)


class _StaticWriter(StandardWriter):
    """Takes what the lookup has found, and attends to the slots of the cache and to the tokens themselves."""

    batched_logits = True

    def begin(self) -> str:
        graph, config = self._graph, self._config
        x = graph.input("embeddings", TensorProto.FLOAT, [1, "tokens", config.hidden])
        for rope, spans in enumerate(self._weights.rotary_tables):
            for part, span in zip(("cosines", "sines"), spans, strict=True):
                graph.input(f"{part}.{rope}", TensorProto.FLOAT, [1, "tokens", span.shape[1]])
        for window in dict.fromkeys(layer.window for layer in config.layers):
            graph.input(_mask(window), TensorProto.FLOAT, ["tokens", "keys"])
        return x

    def end(self) -> None:
        """Only what a run appends to the cache is an output: copies of the slots would be wasted."""

    def rotated(self, x: str, rope: int, name: str) -> str:
        tables = [f"cosines.{rope}", f"sines.{rope}"]
        return self._graph.node("RotaryEmbedding", [x, *tables], name, **rotary_attributes(self._config))

    def attention(self, heads: dict[str, str], index: int) -> str:
        graph, config, name = self._graph, self._config, f"layer.{index}.attention"
        pasts = cache_inputs(graph, config, index, "slots")
        keys, values = (
            graph.node("Concat", [past, heads[part]], f"{name}.{part}s", axis=2)
            for past, part in zip(pasts, ("key", "value"), strict=True)
        )
        keys = graph.node("Transpose", [keys], f"{name}.keys.turned", perm=[0, 1, 3, 2])
        scale = graph.constant("attention.scale", np.array(config.attention_scale, np.float32))
        query = graph.node("Mul", [heads["query"], scale], f"{name}.query")
        # The query heads that share keys become rows of one product: a copy of the keys for each is not needed.
        group = config.heads // config.kv_heads
        if group > 1:
            query = graph.reshaped(query, [1, config.kv_heads, -1, config.head_dim], f"{name}.query.rows")
        scores = graph.node("MatMul", [query, keys], f"{name}.scores")
        if config.attention_softcap is not None:
            cap = graph.constant("attention.cap", np.array(config.attention_softcap, np.float32))
            scores = graph.node("Tanh", [graph.node("Div", [scores, cap], f"{name}.divided")], f"{name}.tanh")
            scores = graph.node("Mul", [scores, cap], f"{name}.capped")
        if group > 1:
            scores = graph.reshaped(scores, [config.kv_heads, group, -1, 0], f"{name}.scores.heads")
        scores = graph.node("Add", [scores, _mask(config.layers[index].window)], f"{name}.masked")
        weights = graph.node("Softmax", [scores], f"{name}.weights", axis=-1)
        if group > 1:
            weights = graph.reshaped(weights, [1, config.kv_heads, -1, 0], f"{name}.weights.rows")
        attended = graph.node("MatMul", [weights, values], name)
        if group > 1:
            attended = graph.reshaped(attended, [1, config.heads, -1, config.head_dim], f"{name}.heads")
        return self.merged(attended, f"layer.{index}")


def _mask(window: int | None) -> str:
    return MASK if window is None else f"{MASK}.{window}"
