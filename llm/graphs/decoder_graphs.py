"""Writes two ONNX graphs of one llama-like decoder, each in the form that suits a kind of engine.

`write_in_place` uses ``com.microsoft.GroupQueryAttention``, which applies rotary embeddings, appends to the KV cache in
place and attends, in one kernel: ONNX Runtime decodes fastest with it. `write_standard` uses ONNX's own ``Attention``,
``RotaryEmbedding`` and ``RMSNormalization`` (opset 23), which other compilers recognise and fuse. Both compute the
scores of the last token only, take any number of tokens after any number of earlier ones, and refer to the same weights
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from ..gguf.llama_config import LlamaConfig
from .decoder_layers import MICROSOFT, Layer, ModelWeights, embed, last_token, logits, product
from .weights_file import GraphBuilder, Span

_OPSET = 23
_FLOAT = TensorProto.FLOAT


def write_in_place(path: Path, config: LlamaConfig, weights: ModelWeights, location: str) -> None:
    """Write the graph whose KV cache is one buffer per layer and part, read and extended in place.

    Inputs: ``input_ids`` int64 [1, tokens]; ``seqlens_k`` int32 [1], the number of tokens after this run minus one;
    ``total_sequence_length`` int32 [], that number; ``past_key_values.N.key/value`` float32 [1, kv heads, capacity,
    head dim]. Outputs: ``logits`` float32 [1, 1, vocabulary]; ``present.N.key/value``, to be bound to the same buffers.
    """
    graph = GraphBuilder(location)
    ids = graph.input("input_ids", TensorProto.INT64, [1, "tokens"])
    lengths = [
        graph.input("seqlens_k", TensorProto.INT32, [1]),
        graph.input("total_sequence_length", TensorProto.INT32, []),
    ]
    tables = [graph.constant("cosines", weights.cosines), graph.constant("sines", weights.sines)]
    epsilon: dict[str, Any] = {"epsilon": config.norm_epsilon}
    x, residual = embed(graph, weights.embedding, ids, [-1, config.hidden]), ""
    for index, layer in enumerate(weights.exact_layers):
        prefix = f"layer.{index}"
        norm = graph.constant(f"{prefix}.attention_norm.weight", layer.attention_norm)
        if residual:
            name = f"{prefix}.attention_norm"
            _, _, _, x = graph.nodes(
                "SkipSimplifiedLayerNormalization",
                [x, residual, norm],
                [name, "", "", f"{prefix}.x"],
                domain=MICROSOFT,
                **epsilon,
            )
        else:
            name = graph.node(
                "SimplifiedLayerNormalization", [x, norm], f"{prefix}.attention_norm", axis=-1, stash_type=1, **epsilon
            )
        qkv = product(graph, name, layer.qkv, f"{prefix}.qkv")
        if layer.qkv_bias is not None:
            bias = graph.constant(f"{prefix}.qkv.bias", layer.qkv_bias)
            qkv = graph.node("Add", [qkv, bias], f"{prefix}.qkv.biased")
        # Tokens are rows of a matrix everywhere but in the attention, so that Gemm can add products in place.
        qkv = _reshaped(graph, qkv, [1, -1, (config.heads + 2 * config.kv_heads) * config.head_dim])
        heads = _normalised_heads(graph, qkv, layer, config, prefix) if config.qk_norm else [qkv, "", ""]
        past = _cache(graph, config, index, "capacity")
        attended = graph.nodes(
            "GroupQueryAttention",
            [*heads, *past, *lengths, *tables],
            [f"{prefix}.attention", f"present.{index}.key", f"present.{index}.value"],
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
            scale=config.attention_scale,
        )[0]
        attended = _reshaped(graph, attended, [-1, config.heads * config.head_dim])
        residual = product(graph, attended, layer.attention_output, f"{prefix}.attention_output")
        norm = graph.constant(f"{prefix}.ffn_norm.weight", layer.ffn_norm)
        name, _, _, x = graph.nodes(
            "SkipSimplifiedLayerNormalization",
            [x, residual, norm],
            [f"{prefix}.ffn_norm", "", "", f"{prefix}.x2"],
            domain=MICROSOFT,
            **epsilon,
        )
        both = product(graph, name, layer.gate_up, f"{prefix}.gate_up")
        gate, up = graph.nodes("Split", [both], [f"{prefix}.gate", f"{prefix}.up"], axis=-1, num_outputs=2)
        # x * sigmoid(1.0 * x) is SiLU, in one kernel instead of two.
        gate = graph.node("QuickGelu", [gate], f"{prefix}.silu", domain=MICROSOFT, alpha=1.0)
        residual = product(graph, graph.node("Mul", [gate, up], f"{prefix}.gated"), layer.down, f"{prefix}.down")
    norm = graph.constant("output_norm.weight", weights.output_norm)
    name = graph.node(
        "SkipSimplifiedLayerNormalization",
        [last_token(graph, x, 0), last_token(graph, residual, 0), norm],
        "output_norm",
        domain=MICROSOFT,
        **epsilon,
    )
    logits(graph, weights, name, config)
    _declare_presents(graph, config, "capacity")
    graph.save(path, config.name, _OPSET)


def write_standard(path: Path, config: LlamaConfig, weights: ModelWeights, location: str) -> None:
    """Write the graph in ONNX's standard operators, with separate projections.

    Inputs: ``input_ids`` and ``position_ids`` int64 [1, tokens]; ``past_key_values.N.key/value`` float32 [1, kv heads,
    past, head dim]. Outputs: ``logits`` float32 [1, 1, vocabulary]; ``present.N.key/value`` [1, kv heads, past +
    tokens, head dim]; ``fresh.N.key/value``, the part of them that this run appended.
    """
    graph = GraphBuilder(location)
    ids = graph.input("input_ids", TensorProto.INT64, [1, "tokens"])
    positions = graph.input("position_ids", TensorProto.INT64, [1, "tokens"])
    merged = graph.constant("merged", np.array([0, 0, config.heads * config.head_dim], np.int64))
    queries, pairs = config.heads * config.head_dim, config.kv_heads * config.head_dim
    fresh: list[str] = []
    x = embed(graph, weights.embedding, ids, [1, -1, config.hidden])
    for index, layer in enumerate(weights.layers):
        prefix = f"layer.{index}"
        name = _rms(graph, x, layer.attention_norm, f"{prefix}.attention_norm", config)
        parts = {"query": (0, queries), "key": (queries, pairs), "value": (queries + pairs, pairs)}
        heads: dict[str, str] = {}
        for part, (start, size) in parts.items():
            y = product(graph, name, layer.qkv.rows(start, start + size), f"{prefix}.{part}")
            if layer.qkv_bias is not None:
                bias = graph.constant(f"{prefix}.{part}.bias", layer.qkv_bias.rows(start, start + size))
                y = graph.node("Add", [y, bias], f"{prefix}.{part}.biased")
            shape = np.array([0, 0, size // config.head_dim, config.head_dim], np.int64)
            y = graph.node("Reshape", [y, graph.constant(f"heads.{size}", shape)], f"{prefix}.{part}.heads")
            norm = {"query": layer.query_norm, "key": layer.key_norm, "value": None}[part]
            if norm is not None:
                y = _rms(graph, y, norm, f"{prefix}.{part}.norm", config)
            result = f"fresh.{index}.{part}" if part != "query" else f"{prefix}.query.rotated"
            transposed = result if part == "value" else f"{prefix}.{part}.turned"
            y = graph.node("Transpose", [y], transposed, perm=[0, 2, 1, 3])
            if part != "value":
                tables = [graph.constant("cosines", weights.cosines), graph.constant("sines", weights.sines)]
                y = graph.node("RotaryEmbedding", [y, *tables, positions], result)
            heads[part] = y
        fresh += [heads["key"], heads["value"]]
        past = _cache(graph, config, index, "past")
        attended = graph.nodes(
            "Attention",
            [heads["query"], heads["key"], heads["value"], "", *past],
            [f"{prefix}.attention", f"present.{index}.key", f"present.{index}.value"],
            is_causal=1,
            scale=config.attention_scale,
        )[0]
        attended = graph.node("Transpose", [attended], f"{prefix}.attention.turned", perm=[0, 2, 1, 3])
        attended = graph.node("Reshape", [attended, merged], f"{prefix}.attention.merged")
        if index == config.layers - 1:  # after the keys and values of the last layer only the last token is needed
            attended, x = last_token(graph, attended, 1), last_token(graph, x, 1)
        out = product(graph, attended, layer.attention_output, f"{prefix}.attention_output")
        x = graph.node("Add", [x, out], f"{prefix}.x")
        name = _rms(graph, x, layer.ffn_norm, f"{prefix}.ffn_norm", config)
        gate = product(graph, name, layer.gate_up.rows(0, config.ffn), f"{prefix}.gate")
        up = product(graph, name, layer.gate_up.rows(config.ffn, 2 * config.ffn), f"{prefix}.up")
        silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{prefix}.sigmoid")], f"{prefix}.silu")
        down = product(graph, graph.node("Mul", [silu, up], f"{prefix}.gated"), layer.down, f"{prefix}.down")
        x = graph.node("Add", [x, down], f"{prefix}.x2")
    logits(graph, weights, _rms(graph, x, weights.output_norm, "output_norm", config), config)
    _declare_presents(graph, config, "total")
    for name in fresh:
        graph.output(name, _FLOAT, [1, config.kv_heads, "tokens", config.head_dim])
    graph.save(path, config.name, _OPSET)


def _reshaped(graph: GraphBuilder, x: str, shape: list[int]) -> str:
    target = graph.constant(f"shape.{'x'.join(map(str, shape))}", np.array(shape, np.int64))
    return graph.node("Reshape", [x, target], f"{x}.{len(shape)}d")


def _rms(graph: GraphBuilder, x: str, weight: Span, name: str, config: LlamaConfig) -> str:
    return graph.node(
        "RMSNormalization", [x, graph.constant(f"{name}.weight", weight)], name, axis=-1, epsilon=config.norm_epsilon
    )


def _normalised_heads(graph: GraphBuilder, qkv: str, layer: Layer, config: LlamaConfig, prefix: str) -> list[str]:
    """Split Q, K and V, and normalise each head of Q and K: [1, tokens, heads * head dim] each."""
    queries, pairs = config.heads * config.head_dim, config.kv_heads * config.head_dim
    sizes = graph.constant("qkv.sizes", np.array([queries, pairs, pairs], np.int64))
    names = [f"{prefix}.query", f"{prefix}.key", f"{prefix}.value"]
    parts = graph.nodes("Split", [qkv, sizes], names, axis=-1)
    for at, (norm, size) in enumerate(((layer.query_norm, queries), (layer.key_norm, pairs))):
        if norm is None:
            continue
        shape = np.array([0, 0, size // config.head_dim, config.head_dim], np.int64)
        y = graph.node("Reshape", [parts[at], graph.constant(f"heads.{size}", shape)], f"{names[at]}.heads")
        y = _rms(graph, y, norm, f"{names[at]}.norm", config)
        flat = graph.constant(f"flat.{size}", np.array([0, 0, size], np.int64))
        parts[at] = graph.node("Reshape", [y, flat], f"{names[at]}.flat")
    return parts


def _cache(graph: GraphBuilder, config: LlamaConfig, index: int, length: str) -> list[str]:
    shape: list[int | str] = [1, config.kv_heads, length, config.head_dim]
    return [graph.input(f"past_key_values.{index}.{part}", _FLOAT, shape) for part in ("key", "value")]


def _declare_presents(graph: GraphBuilder, config: LlamaConfig, length: str) -> None:
    for index in range(config.layers):
        for part in ("key", "value"):
            graph.output(f"present.{index}.{part}", _FLOAT, [1, config.kv_heads, length, config.head_dim])
