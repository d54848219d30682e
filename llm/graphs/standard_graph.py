"""Writes the decoder in ONNX's standard operators, which many compilers recognise and fuse, with a growing KV cache.

These are ``Attention``, ``RotaryEmbedding`` and ``RMSNormalization`` (opset 23). A layer with a sliding window gets a
mask, computed once for all layers with the same window; this cache holds all tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from .decoder_config import DecoderConfig
from .layers.attention_masks import window_keys
from .layers.decoder_layers import (
    Layer,
    ModelWeights,
    biased,
    cache_inputs,
    declare_presents,
    embed,
    last_token,
    logits,
    rms_norm,
    scaled,
)
from .layers.expert_layers import mixture_of_experts
from .layers.sink_attention import attention_with_sinks
from .weight_products import product
from .weights_file import GraphBuilder, Span

_OPSET = 23
_POSITIONS = "position_ids"


def write_standard(path: Path, config: DecoderConfig, weights: ModelWeights, location: str) -> None:
    """Write the graph next to its weights file.

    Inputs: ``input_ids`` and ``position_ids`` int64 [1, tokens]; ``past_key_values.N.key/value`` float32 [1, kv heads,
    past, head dim]. Outputs: ``logits`` float32 [1, 1, vocabulary]; ``present.N.key/value`` [1, kv heads, past +
    tokens, head dim]; ``fresh.N.key/value``, the part of them that this run appended. Both graphs compute the scores of
    the last token only, take any number of tokens after any number of earlier ones, and refer to the same weights file.
    """
    graph = GraphBuilder(location)
    StandardWriter(graph, config, weights).write()
    graph.save(path, config.name, _OPSET)


class StandardWriter:
    """Adds one layer after another, with separate projections of Q, K, V, gate and up.

    What depends on how the KV cache and the tokens enter a graph is in methods of their own: `begin`, `rotated`,
    `attention` and `end`.
    """

    batched_logits = False
    """Whether the last product has the form of all others; compilers may refuse another one."""

    def __init__(self, graph: GraphBuilder, config: DecoderConfig, weights: ModelWeights) -> None:
        self._graph = graph
        self._config = config
        self._weights = weights

    def write(self) -> None:
        """Add the whole decoder."""
        graph, config, weights = self._graph, self._config, self._weights
        x = self.begin()
        fresh: list[str] = []
        for index, layer in enumerate(weights.layers):
            prefix = f"layer.{index}"
            y = self._normalised(x, layer.attention_norm, f"{prefix}.attention_norm")
            heads = self._heads(y, layer, index)
            fresh += [heads["key"], heads["value"]]
            attended = self.attention(heads, index)
            if index == len(config.layers) - 1:  # after the last layer's keys and values only the last token is needed
                attended, x = self._last_token(attended), self._last_token(x)
            y = product(graph, attended, layer.attention_output, f"{prefix}.attention_output", batched=True)
            y = biased(graph, y, layer.output_bias, f"{prefix}.attention_output")
            x = self._sum(x, y, layer.attention_post_norm, f"{prefix}.attention_post_norm", f"{prefix}.x")
            y = self._normalised(x, layer.ffn_norm, f"{prefix}.ffn_norm")
            y = self._feed_forward(y, layer, prefix)
            x = self._sum(x, y, layer.ffn_post_norm, f"{prefix}.ffn_post_norm", f"{prefix}.x2")
        logits(
            graph, weights, self._normalised(x, weights.output_norm, "output_norm"), config, batched=self.batched_logits
        )
        self.end()
        for name in fresh:
            graph.output(name, TensorProto.FLOAT, [1, config.kv_heads, "tokens", config.head_dim])

    def begin(self) -> str:
        """Declare the inputs other than the KV cache, and return the embedding of the tokens."""
        graph, config = self._graph, self._config
        ids = graph.input("input_ids", TensorProto.INT64, [1, "tokens"])
        graph.input(_POSITIONS, TensorProto.INT64, [1, "tokens"])
        return embed(graph, self._weights.embedding, ids, [1, -1, config.hidden], config.embedding_scale)

    def end(self) -> None:
        """Declare the outputs other than the logits and what a run appends to the cache."""
        declare_presents(self._graph, self._config, {layer.index: "total" for layer in self._config.kv_layers})

    def _last_token(self, x: str) -> str:
        if self._config.experts is None:
            return last_token(self._graph, x, 1)
        # OpenVINO recognises experts only where it does not know the number of tokens, as after a slice.
        bounds = {"start": -1, "end": np.iinfo(np.int64).max, "axis": 1}
        slices = [self._graph.constant(f"last.{name}", np.array([value], np.int64)) for name, value in bounds.items()]
        return self._graph.node("Slice", [x, *slices], f"{x}.last")

    def _normalised(self, x: str, norm: Span | None, name: str) -> str:
        return x if norm is None else rms_norm(self._graph, x, norm, name, self._config)

    def _sum(self, x: str, y: str, norm: Span | None, name: str, total: str) -> str:
        """Add the output of a part of a layer to the residual."""
        y = scaled(self._graph, self._normalised(y, norm, name), self._config.residual_scale, f"{name}.scaled")
        return self._graph.node("Add", [x, y], total)

    def _heads(self, x: str, layer: Layer, index: int) -> dict[str, str]:
        """Return Q, K and V [1, heads, tokens, head dim], with norms and rotary embedding."""
        config, prefix = self._config, f"layer.{index}"
        queries, pairs = config.query_size, config.kv_size
        norms = {"query": layer.query_norm, "key": layer.key_norm, "value": None}
        parts = {"query": (0, queries), "key": (queries, pairs), "value": (queries + pairs, pairs)}
        heads: dict[str, str] = {}
        for part, (start, size) in parts.items():
            name = f"{prefix}.{part}"
            y = product(self._graph, x, layer.qkv.rows(start, start + size), name, batched=True)
            bias = None if layer.qkv_bias is None else layer.qkv_bias.rows(start, start + size)
            y = biased(self._graph, y, bias, name)
            if config.head_norm == "projection":
                y = self._normalised(y, norms[part], f"{name}.norm")
            shape = np.array([0, 0, size // config.head_dim, config.head_dim], np.int64)
            y = self._graph.node("Reshape", [y, self._graph.constant(f"heads.{size}", shape)], f"{name}.heads")
            if config.head_norm == "head":
                y = self._normalised(y, norms[part], f"{name}.norm")
            rope = config.layers[index].rope if part != "value" else None
            result = f"fresh.{index}.{part}" if part != "query" else f"{name}.rotated"
            y = self._graph.node("Transpose", [y], f"{name}.turned" if rope is not None else result, perm=[0, 2, 1, 3])
            heads[part] = y if rope is None else self.rotated(y, rope, result)
        return heads

    def rotated(self, x: str, rope: int, name: str) -> str:
        """Add a rotary embedding of x [1, heads, tokens, head dim]."""
        spans = zip(("cosines", "sines"), self._weights.rotary_tables[rope], strict=True)
        tables = [self._graph.constant(f"rope.{rope}.{part}", span) for part, span in spans]
        return self._graph.node("RotaryEmbedding", [x, *tables, _POSITIONS], name, **rotary_attributes(self._config))

    def attention(self, heads: dict[str, str], index: int) -> str:
        """Add the attention of a layer to Q, K and V, and the cache; return [1, tokens, heads * head dim]."""
        graph, config, prefix = self._graph, self._config, f"layer.{index}"
        past = cache_inputs(graph, config, index, "past")
        sinks = self._weights.layers[index].sinks
        if sinks is not None:
            return self.merged(attention_with_sinks(graph, heads, past, sinks, _POSITIONS, config, index), prefix)
        window = config.layers[index].window
        attributes: dict[str, Any] = {} if config.attention_softcap is None else {"softcap": config.attention_softcap}
        mask = "" if window is None else window_keys(graph, _POSITIONS, window, "mask")
        attended = graph.nodes(
            "Attention",
            [heads["query"], heads["key"], heads["value"], mask, *past],
            [f"{prefix}.attention", f"present.{index}.key", f"present.{index}.value"],
            is_causal=int(window is None),
            scale=config.attention_scale,
            **attributes,
        )[0]
        return self.merged(attended, prefix)

    def merged(self, attended: str, prefix: str) -> str:
        """Merge the heads of an attention's result [1, heads, tokens, head dim]."""
        attended = self._graph.node("Transpose", [attended], f"{prefix}.attention.turned", perm=[0, 2, 1, 3])
        shape = self._graph.constant("merged", np.array([0, 0, self._config.query_size], np.int64))
        return self._graph.node("Reshape", [attended, shape], f"{prefix}.attention.merged")

    def _feed_forward(self, x: str, layer: Layer, prefix: str) -> str:
        graph, ffn = self._graph, self._config.ffn
        if self._config.experts is not None:
            return mixture_of_experts(graph, x, layer, self._config, prefix, batched=True)
        gate = product(graph, x, layer.gate_up.rows(0, ffn), f"{prefix}.gate", batched=True)
        up = product(graph, x, layer.gate_up.rows(ffn, 2 * ffn), f"{prefix}.up", batched=True)
        if self._config.activation == "silu":
            gate = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{prefix}.sigmoid")], f"{prefix}.silu")
        else:
            gate = graph.node("Gelu", [gate], f"{prefix}.gelu", approximate="tanh")
        gated = graph.node("Mul", [gate, up], f"{prefix}.gated")
        return product(graph, gated, layer.down, f"{prefix}.down", batched=True)


def rotary_attributes(config: DecoderConfig) -> dict[str, Any]:
    """Return the attributes of RotaryEmbedding for heads of which all, or only some, dimensions rotate."""
    return {} if config.rotary_dim == config.head_dim else {"rotary_embedding_dim": config.rotary_dim}
