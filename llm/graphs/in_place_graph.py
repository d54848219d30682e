"""Writes the decoder for ONNX Runtime: the KV cache is one buffer per layer and part, read and extended in place.

``com.microsoft.GroupQueryAttention`` applies rotary embeddings, appends to the cache and attends, in one kernel: ONNX
Runtime decodes fastest with it. Soft caps and sliding windows are options of it.
The cache of a layer with a window holds only that, if the context is much longer; a second form of the graph keeps all
tokens, for engines whose operator cannot remove those that left the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from ..running.kv_layer import KvLayer
from .decoder_config import DecoderConfig
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
from .layers.delta_layers import delta_layer
from .layers.expert_layers import mixture_of_experts
from .weight_products import MICROSOFT, product
from .weights_file import GraphBuilder, Span, Weight

_OPSET = 23
_HEAD_SINK = 11
"""Index of the operator's input for attention sinks."""
_ROTARY_MULTIPLE = 16
"""The operator rotates multiples of this many dimensions of heads whose size is one too."""


def can_write_in_place(config: DecoderConfig) -> bool:
    """Return whether ONNX Runtime's operator takes heads and rotary embeddings of these sizes."""
    return config.head_dim % _ROTARY_MULTIPLE == 0 and config.rotary_dim % _ROTARY_MULTIPLE == 0


def write_in_place(
    path: Path, config: DecoderConfig, weights: ModelWeights, location: str, *, full_length: bool = False
) -> None:
    """Write the graph next to its weights file; with `full_length`, all caches hold all tokens.

    Inputs: ``input_ids`` int64 [1, tokens]; ``seqlens_k`` int32 [1], the number of tokens after this run minus one;
    ``total_sequence_length`` int32 [], that number; ``past_key_values.N.key/value`` float32 [1, kv heads, capacity,
    head dim]. Outputs: ``logits`` float32 [1, 1, vocabulary]; ``present.N.key/value``, to be bound to the same buffers.
    """
    graph = GraphBuilder(location)
    kv_layers = [replace(layer, window=None) for layer in config.kv_layers] if full_length else config.kv_layers
    _InPlaceWriter(graph, config, weights, kv_layers).write()
    graph.save(path, config.name, _OPSET)


def _rows(layer: KvLayer) -> str:
    """Return the name of the number of tokens that a layer's cache holds."""
    return "capacity" if layer.window is None else f"window_{layer.window}"


class _InPlaceWriter:
    """Adds one layer after another; what a layer adds to the residual is added by the norm that follows.

    Tokens are rows of a matrix everywhere but in the attention, so that Gemm can add products in place.
    """

    def __init__(
        self, graph: GraphBuilder, config: DecoderConfig, weights: ModelWeights, kv_layers: Sequence[KvLayer]
    ) -> None:
        self._graph = graph
        self._config = config
        self._weights = weights
        self._kv_layers = {layer.index: layer for layer in kv_layers}
        self._epsilon: dict[str, Any] = {"epsilon": config.norm_epsilon}

    def write(self) -> None:
        graph, config, weights = self._graph, self._config, self._weights
        ids = graph.input("input_ids", TensorProto.INT64, [1, "tokens"])
        lengths = [
            graph.input("seqlens_k", TensorProto.INT32, [1]),
            graph.input("total_sequence_length", TensorProto.INT32, []),
        ]
        x = embed(graph, weights.embedding, ids, [-1, config.hidden], config.embedding_scale)
        added = ""
        for index, layer in enumerate(weights.exact_layers):
            prefix = f"layer.{index}"
            y, x = self._normalised(x, added, layer.attention_norm, f"{prefix}.attention_norm", f"{prefix}.x")
            if config.layers[index].recurrent:
                y = delta_layer(graph, y, layer, config, index)
            else:
                y = self._attention(y, layer, index, lengths)
            y = self._product(y, layer.attention_output, f"{prefix}.attention_output")
            y = biased(graph, y, layer.output_bias, f"{prefix}.attention_output")
            added = self._output(y, layer.attention_post_norm, f"{prefix}.attention_post_norm")
            y, x = self._normalised(x, added, layer.ffn_norm, f"{prefix}.ffn_norm", f"{prefix}.x2")
            y = self._feed_forward(y, layer, prefix)
            added = self._output(y, layer.ffn_post_norm, f"{prefix}.ffn_post_norm")
        x, added = last_token(graph, x, 0), last_token(graph, added, 0)
        y, _ = self._normalised(x, added, weights.output_norm, "output_norm", "")
        logits(graph, weights, y, config)
        declare_presents(graph, config, {index: _rows(layer) for index, layer in self._kv_layers.items()})

    def _normalised(self, x: str, added: str, norm: Span | None, name: str, total: str) -> tuple[str, str]:
        """Return the normalised sum of the residual x and what the layer before adds to it, and the sum itself."""
        graph = self._graph
        if norm is None:
            total = graph.node("Add", [x, added], total) if added else x
            return total, total
        weight = graph.constant(f"{name}.weight", norm)
        if not added:
            return self._simplified(x, weight, name), x
        outputs = [name, "", "", total] if total else [name]
        results = graph.nodes(
            "SkipSimplifiedLayerNormalization", [x, added, weight], outputs, domain=MICROSOFT, **self._epsilon
        )
        return results[0], results[-1]

    def _output(self, y: str, norm: Span | None, name: str) -> str:
        """Return what a part of a layer adds to the residual."""
        if norm is not None:
            y = self._simplified(y, self._graph.constant(f"{name}.weight", norm), name)
        return scaled(self._graph, y, self._config.residual_scale, f"{name}.scaled")

    def _simplified(self, x: str, weight: str, name: str) -> str:
        return self._graph.node(
            "SimplifiedLayerNormalization", [x, weight], name, axis=-1, stash_type=1, **self._epsilon
        )

    def _attention(self, y: str, layer: Layer, index: int, lengths: list[str]) -> str:
        graph, config, prefix = self._graph, self._config, f"layer.{index}"
        options, cached = config.layers[index], self._kv_layers[index]
        qkv = biased(graph, self._product(y, layer.qkv, f"{prefix}.qkv"), layer.qkv_bias, f"{prefix}.qkv")
        gate = ""
        if config.attention_gate:
            sizes = graph.constant("gated.sizes", np.array([config.query_size + 2 * config.kv_size, config.query_size]))
            qkv, gate = graph.nodes("Split", [qkv, sizes], [f"{prefix}.qkv.heads", f"{prefix}.output_gate"], axis=-1)
        qkv = graph.reshaped(qkv, [1, -1, config.query_size + 2 * config.kv_size])
        heads = [qkv, "", ""] if config.head_norm is None else self._normalised_heads(qkv, layer, prefix)
        inputs = [*heads, *cache_inputs(graph, config, index, _rows(cached)), *lengths]
        attributes: dict[str, Any] = {"do_rotary": 0}
        if options.rope is not None:
            attributes["do_rotary"] = 1
            for part, span in zip(("cosines", "sines"), self._weights.rotary_tables[options.rope], strict=True):
                inputs.append(graph.constant(f"rope.{options.rope}.{part}", span))
        if layer.sinks is not None:
            unused = [""] * (_HEAD_SINK - len(inputs))
            inputs += [*unused, graph.constant(f"{prefix}.sinks", layer.sinks)]
        if options.window is not None:
            attributes["local_window_size"] = options.window
        if cached.window is not None:
            attributes["sliding_window_cache"] = 1
        if config.attention_softcap is not None:
            attributes["softcap"] = config.attention_softcap
        attended = graph.nodes(
            "GroupQueryAttention",
            inputs,
            [f"{prefix}.attention", f"present.{index}.key", f"present.{index}.value"],
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            scale=config.attention_scale,
            **attributes,
        )[0]
        attended = graph.reshaped(attended, [-1, config.query_size])
        if not gate:
            return attended
        return graph.node(
            "Mul", [attended, graph.node("Sigmoid", [gate], f"{gate}.sigmoid")], f"{prefix}.attention.gated"
        )

    def _normalised_heads(self, qkv: str, layer: Layer, prefix: str) -> list[str]:
        """Split Q, K and V, and normalise Q and K: [1, tokens, heads * head dim] each."""
        graph, config = self._graph, self._config
        queries, pairs = config.query_size, config.kv_size
        sizes = graph.constant("qkv.sizes", np.array([queries, pairs, pairs], np.int64))
        names = [f"{prefix}.query", f"{prefix}.key", f"{prefix}.value"]
        parts = graph.nodes("Split", [qkv, sizes], names, axis=-1)
        for at, (norm, size) in enumerate(((layer.query_norm, queries), (layer.key_norm, pairs))):
            assert norm is not None
            y = parts[at]
            if config.head_norm == "head":
                shape = np.array([0, 0, size // config.head_dim, config.head_dim], np.int64)
                y = graph.node("Reshape", [y, graph.constant(f"heads.{size}", shape)], f"{names[at]}.heads")
            y = rms_norm(graph, y, norm, f"{names[at]}.norm", config)
            if config.head_norm == "head":
                flat = graph.constant(f"flat.{size}", np.array([0, 0, size], np.int64))
                y = graph.node("Reshape", [y, flat], f"{names[at]}.flat")
            parts[at] = y
        return parts

    def _feed_forward(self, y: str, layer: Layer, prefix: str) -> str:
        graph = self._graph
        if self._config.experts is not None:
            return mixture_of_experts(graph, y, layer, self._config, prefix)
        both = self._product(y, layer.gate_up, f"{prefix}.gate_up")
        gate, up = graph.nodes("Split", [both], [f"{prefix}.gate", f"{prefix}.up"], axis=-1, num_outputs=2)
        if self._config.activation == "silu":
            # x * sigmoid(1.0 * x) is SiLU, in one kernel instead of two.
            gate = graph.node("QuickGelu", [gate], f"{prefix}.silu", domain=MICROSOFT, alpha=1.0)
        else:
            gate = graph.node("FastGelu", [gate], f"{prefix}.gelu", domain=MICROSOFT)
        return self._product(graph.node("Mul", [gate, up], f"{prefix}.gated"), layer.down, f"{prefix}.down")

    def _product(self, x: str, weight: Weight, name: str) -> str:
        return product(self._graph, x, weight, name)
