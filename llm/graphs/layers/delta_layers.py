"""Adds a gated delta layer to a graph, in ONNX Runtime's operators for its convolution and its recurrence.

``com.microsoft.CausalConvWithState`` and ``LinearAttention`` take the state of earlier tokens and return the new one.
OpenVINO knows neither; the standard graph has no such layers.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..decoder_config import DecoderConfig, DeltaConfig
from ..weight_products import MICROSOFT, product
from ..weights_file import GraphBuilder, Span
from .decoder_layers import DeltaWeights, Layer, rms_norm


def delta_layer(graph: GraphBuilder, x: str, layer: Layer, config: DecoderConfig, index: int) -> str:
    """Add a layer up to its output projection, and its states as inputs and outputs.

    Parameters
    ----------
    x : str
        [tokens, hidden].

    Returns
    -------
    str
        [tokens, value heads * head dim].
    """
    delta, weights, prefix = config.delta, layer.delta, f"layer.{index}"
    assert delta is not None
    assert weights is not None
    mixed = _convolved(graph, product(graph, x, layer.qkv, f"{prefix}.qkv"), weights.kernel, delta, index)
    sizes = graph.constant("delta.sizes", np.array([delta.key_size, delta.key_size, delta.value_size], np.int64))
    names = [f"{prefix}.delta.{part}" for part in ("query", "key", "value")]
    query, key, value = graph.nodes("Split", [mixed, sizes], names, axis=-1)
    heads = [_unit(graph, part, delta) for part in (query, key)]
    gates = product(graph, x, weights.gates, f"{prefix}.gates")
    sizes = graph.constant("gates.sizes", np.array([delta.value_size, delta.value_heads, delta.value_heads], np.int64))
    names = [f"{prefix}.delta.{part}" for part in ("gate", "beta", "alpha")]
    gate, beta, alpha = graph.nodes("Split", [gates, sizes], names, axis=-1)
    rates = [_decay(graph, alpha, weights, prefix), graph.node("Sigmoid", [beta], f"{prefix}.rate")]
    rates = [graph.reshaped(rate, [1, -1, delta.value_heads]) for rate in rates]
    state: list[int | str] = [1, delta.value_heads, delta.head_dim, delta.head_dim]
    past = graph.input(f"past_state.{index}.delta", TensorProto.FLOAT, state)
    attended, present = graph.nodes(
        "LinearAttention",
        [*heads, value, past, *rates],
        [f"{prefix}.delta", f"present_state.{index}.delta"],
        domain=MICROSOFT,
        q_num_heads=delta.value_heads,
        kv_num_heads=delta.value_heads,
        update_rule="gated_delta",
        scale=delta.head_dim**-0.5,
    )
    graph.output(present, TensorProto.FLOAT, state)
    by_head = graph.reshaped(attended, [-1, delta.value_heads, delta.head_dim])
    normalised = graph.reshaped(
        rms_norm(graph, by_head, weights.norm, f"{prefix}.delta_norm", config), [-1, delta.value_size]
    )
    gate = graph.node("QuickGelu", [gate], f"{prefix}.delta.silu", domain=MICROSOFT, alpha=1.0)
    return graph.node("Mul", [normalised, gate], f"{prefix}.delta.gated")


def _convolved(graph: GraphBuilder, qkv: str, kernel: Span, delta: DeltaConfig, index: int) -> str:
    """Return Q, K and V [1, tokens, channels] after the convolution over tokens and SiLU."""
    prefix = f"layer.{index}"
    by_channel = graph.node(
        "Transpose", [graph.reshaped(qkv, [1, -1, delta.channels])], f"{prefix}.channels", perm=[0, 2, 1]
    )
    state: list[int | str] = [1, delta.channels, delta.kernel - 1]
    past = graph.input(f"past_state.{index}.conv", TensorProto.FLOAT, state)
    weight = graph.constant(f"{prefix}.kernel", kernel.reshaped(delta.channels, 1, delta.kernel))
    mixed, present = graph.nodes(
        "CausalConvWithState",
        [by_channel, weight, "", past],
        [f"{prefix}.mixed", f"present_state.{index}.conv"],
        domain=MICROSOFT,
        ndim=1,
        activation="silu",
    )
    graph.output(present, TensorProto.FLOAT, state)
    return graph.node("Transpose", [mixed], f"{prefix}.mixed.tokens", perm=[0, 2, 1])


def _unit(graph: GraphBuilder, x: str, delta: DeltaConfig) -> str:
    """Normalise heads of queries or keys [1, tokens, key size] to length 1, and repeat them for all value heads."""
    heads = graph.node(
        "LpNormalization", [graph.reshaped(x, [1, -1, delta.key_heads, delta.head_dim])], f"{x}.unit", p=2
    )
    flat = graph.reshaped(heads, [1, -1, delta.key_size])
    repeats = delta.value_heads // delta.key_heads
    return flat if repeats == 1 else graph.node("Concat", [flat] * repeats, f"{x}.repeated", axis=-1)


def _decay(graph: GraphBuilder, alpha: str, weights: DeltaWeights, prefix: str) -> str:
    """Return the logarithm of the states' decay, [tokens, value heads]."""
    biased = graph.node("Add", [alpha, graph.constant(f"{prefix}.time_bias", weights.time_bias)], f"{prefix}.time")
    step = graph.node("Softplus", [biased], f"{prefix}.step")
    return graph.node("Mul", [step, graph.constant(f"{prefix}.decay", weights.decay)], f"{prefix}.log_decay")
