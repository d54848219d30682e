"""Parts of a decoder that both graphs of a language model share: its weights, and the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..decoder_config import DecoderConfig
from ..weight_products import embedding_rows, product
from ..weights_file import GraphBuilder, Span, Weight


@dataclass(frozen=True)
class DeltaWeights:
    """What a gated delta layer has besides projections of Q, K, V and of its output."""

    gates: Weight
    """Rows of the output's gate, then of each value head's beta, then of each one's alpha."""
    kernel: Span
    """[channels, tokens] of the convolution."""
    time_bias: Span
    """Added to alpha, one for each value head."""
    decay: Span
    """Factor of the softplus of alpha, negative, one for each value head."""
    norm: Span
    """Of each value head's output."""


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer; None = the layer has no such step."""

    qkv: Weight
    """Rows of Q, then K, then V; rotary embeddings act on the two halves of a head. A gated attention's come last."""
    attention_output: Weight
    gate_up: Weight
    """Rows of gate, then up; of experts, one after the other, rows of gate and up in turns."""
    down: Weight
    """Of experts, one after the other."""
    qkv_bias: Span | None = None
    output_bias: Span | None = None
    """Of the attention's output projection."""
    attention_norm: Span | None = None
    attention_post_norm: Span | None = None
    ffn_norm: Span | None = None
    ffn_post_norm: Span | None = None
    query_norm: Span | None = None
    key_norm: Span | None = None
    sinks: Span | None = None
    """A further score of every head's softmax."""
    router: Weight | None = None
    """[experts, hidden]."""
    router_bias: Span | None = None
    gate_up_bias: Span | None = None
    """[experts, 2 * ffn], gate and up in turns."""
    down_bias: Span | None = None
    """[experts, hidden]."""
    delta: DeltaWeights | None = None
    """Of a gated delta layer, with the rest of its weights in the places of those of attention."""


@dataclass(frozen=True)
class ModelWeights:
    """Weights of a whole decoder, in one weights file."""

    embedding: Weight
    """[vocabulary, hidden]."""
    output: Weight
    """[vocabulary, hidden]; the same object as `embedding` if the two are tied."""
    output_norm: Span
    rotary_tables: tuple[tuple[Span, Span], ...]
    """Cosines and sines of each of `DecoderConfig.ropes`."""
    layers: tuple[Layer, ...]
    """With weights in the form that suits prefill."""
    exact_layers: tuple[Layer, ...]
    """With weights in the form that suits decode."""
    long_rotary_tables: tuple[tuple[Span, Span], ...] = ()
    """In place of `rotary_tables` in contexts of `DecoderConfig.for_long_context`."""


def embed(graph: GraphBuilder, weight: Weight, ids: str, shape: list[int], scale: float) -> str:
    """Look up rows of the embedding, in a shape that ends in hidden."""
    target = graph.constant("embedding.shape", np.array(shape, np.int64))
    rows = graph.node("Reshape", [embedding_rows(graph, weight, ids), target], "embedding")
    return scaled(graph, rows, scale, "embedding.scaled")


def logits(graph: GraphBuilder, weights: ModelWeights, x: str, config: DecoderConfig, *, batched: bool = False) -> str:
    """Add the scores over the vocabulary, [1, 1, vocabulary], of one token's normalised x [..., hidden].

    Those of a matrix, as the other products of the in-place graph, or of a batch of one matrix.

    Tied embedding and output projection have separate initializers over the same bytes: an engine that repacks the
    projection can then release its copy, while the embedding reads single rows.
    """
    if not batched:
        x = graph.node("Reshape", [x, graph.constant("one_token", np.array([1, -1], np.int64))], "output.x")
    scores = product(graph, x, weights.output, "output", batched=batched)
    scores = scaled(graph, scores, config.logit_scale, "output.scaled")
    if config.logit_softcap is not None:
        scores = scaled(graph, scores, 1 / config.logit_softcap, "output.divided")
        scores = scaled(graph, graph.node("Tanh", [scores], "output.tanh"), config.logit_softcap, "output.capped")
    graph.node("Reshape", [scores, graph.constant("scores.shape", np.array([1, 1, config.vocab], np.int64))], "logits")
    return graph.output("logits", TensorProto.FLOAT, [1, 1, config.vocab])


def last_token(graph: GraphBuilder, x: str, axis: int) -> str:
    """Gather the last token along an axis, which is kept with size 1."""
    return graph.node("Gather", [x, graph.constant("last", np.array([-1], np.int64))], f"{x}.last", axis=axis)


def scaled(graph: GraphBuilder, x: str, factor: float, name: str) -> str:
    """Multiply by a constant; nothing is added for a factor of 1."""
    if factor == 1:
        return x
    return graph.node("Mul", [x, graph.constant(f"{name}.factor", np.asarray(factor, np.float32))], name)


def biased(graph: GraphBuilder, x: str, bias: Span | None, name: str) -> str:
    """Add a bias, if there is one."""
    return x if bias is None else graph.node("Add", [x, graph.constant(f"{name}.bias", bias)], f"{name}.biased")


def rms_norm(graph: GraphBuilder, x: str, weight: Span, name: str, config: DecoderConfig) -> str:
    """Normalise the last axis, in ONNX's standard operator."""
    inputs = [x, graph.constant(f"{name}.weight", weight)]
    return graph.node("RMSNormalization", inputs, name, axis=-1, epsilon=config.norm_epsilon)


def cache_inputs(graph: GraphBuilder, config: DecoderConfig, index: int, length: str) -> list[str]:
    """Declare the KV cache of a layer as inputs."""
    shape: list[int | str] = [1, config.kv_heads, length, config.head_dim]
    return [graph.input(f"past_key_values.{index}.{part}", TensorProto.FLOAT, shape) for part in ("key", "value")]


def declare_presents(graph: GraphBuilder, config: DecoderConfig, lengths: Mapping[int, str]) -> None:
    """Declare the KV cache as outputs, with the name of each layer's length."""
    for index, length in lengths.items():
        for part in ("key", "value"):
            shape: list[int | str] = [1, config.kv_heads, length, config.head_dim]
            graph.output(f"present.{index}.{part}", TensorProto.FLOAT, shape)
