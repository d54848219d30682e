"""Pieces of a decoder that both graphs of a language model are made of: products, embedding, rotation tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from .gguf.blocks import BLOCK
from .gguf.config import LlamaConfig
from .weights import Dense, GraphBuilder, Linear, Span, Weight

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer."""

    qkv: Weight
    """Rows of Q, then K, then V, rotated by halves."""
    qkv_bias: Span | None
    attention_output: Weight
    gate_up: Weight
    """Rows of gate, then up."""
    down: Weight
    attention_norm: Span
    ffn_norm: Span
    query_norm: Span | None
    key_norm: Span | None


@dataclass(frozen=True)
class ModelWeights:
    """Weights of a whole decoder, in one weights file."""

    embedding: Weight
    """[vocabulary, hidden]; blocks of 8 bits or float32."""
    output: Weight
    """[vocabulary, hidden]; the same object as `embedding` where the two are tied."""
    output_norm: Span
    cosines: Span
    sines: Span
    layers: tuple[Layer, ...]
    """Quantised weights in 8 bits: multiplies fastest."""
    exact_layers: tuple[Layer, ...]
    """The same in 4 bits where they were (with offsets for Q4_1): the fewest bytes to read."""


def product(graph: GraphBuilder, x: str, weight: Weight, name: str, *, result: str | None = None) -> str:
    """``x @ weight.T`` for x [1, tokens, columns]."""
    result = result or name
    rows, columns = weight.shape
    if isinstance(weight, Dense):
        transposed = graph.node("Transpose", [graph.constant(f"{name}.weight", weight.data)], f"{name}.t", perm=[1, 0])
        return graph.node("MatMul", [x, transposed], result)
    inputs = [x, graph.constant(f"{name}.weight", weight.data), graph.constant(f"{name}.scales", weight.scales)]
    attributes = {"N": rows, "K": columns, "bits": weight.bits, "block_size": BLOCK, "accuracy_level": 4}
    if weight.offset is None:
        return graph.node("MatMulNBits", inputs, result, domain=MICROSOFT, **attributes)
    # Every weight of a block is off by the same amount, so what is missing is that times the sum of the input's block.
    y = graph.node("MatMulNBits", inputs, f"{name}.levels", domain=MICROSOFT, **attributes)
    ones = np.kron(np.eye(columns // BLOCK, dtype=np.float32), np.ones((BLOCK, 1), np.float32))
    sums = graph.node("MatMul", [x, graph.constant(f"block_sums.{columns}", ones)], f"{name}.sums")
    offset = graph.constant(f"{name}.offset", weight.offset)
    offset = graph.node("Transpose", [offset], f"{name}.offset.t", perm=[1, 0])
    return graph.node("Add", [y, graph.node("MatMul", [sums, offset], f"{name}.shift")], result)


def embed(graph: GraphBuilder, weight: Weight, ids: str) -> str:
    """Rows of the embedding: float32 [1, tokens, hidden]. Of a table in blocks only the rows asked for are widened."""
    if isinstance(weight, Dense):
        return graph.node("Gather", [graph.constant("embedding.weight", weight.data), ids], "embedding")
    data, scales = tied_names()
    levels = graph.node("Gather", [graph.constant(data, weight.data), ids], "embedding.levels")
    levels = graph.node("Cast", [levels], "embedding.float", to=TensorProto.FLOAT)
    zero = graph.constant("embedding.zero", np.asarray(1 << (weight.bits - 1), np.float32))
    centred = graph.node("Sub", [levels, zero], "embedding.centred")
    scale = graph.node("Gather", [graph.constant(scales, weight.scales), ids], "embedding.scale")
    last = graph.constant("embedding.last_axis", np.array([3], np.int64))
    scale = graph.node("Unsqueeze", [scale, last], "embedding.scale4")
    shape = graph.constant("embedding.shape", np.array([0, 0, weight.shape[1]], np.int64))
    return graph.node("Reshape", [graph.node("Mul", [centred, scale], "embedding.blocks"), shape], "embedding")


def logits(graph: GraphBuilder, weights: ModelWeights, x: str, config: LlamaConfig) -> str:
    """Scores over the vocabulary for normalised x [1, 1, hidden]."""
    tied = weights.output is weights.embedding
    if tied and isinstance(weights.output, Linear):
        data, scales = tied_names()
        rows, columns = weights.output.shape
        inputs = [x, graph.constant(data, weights.output.data), graph.constant(scales, weights.output.scales)]
        attributes: Mapping[str, object] = {"N": rows, "K": columns, "bits": weights.output.bits, "block_size": BLOCK}
        graph.node("MatMulNBits", inputs, "logits", domain=MICROSOFT, accuracy_level=4, **attributes)
    else:
        product(graph, x, weights.output, "embedding" if tied else "output", result="logits")
    return graph.output("logits", TensorProto.FLOAT, [1, 1, config.vocab])


def tied_names() -> tuple[str, str]:
    """Names of the embedding's levels and scales: the output projection uses the same where the two are tied."""
    return "embedding.weight", "embedding.scales"


def last_token(graph: GraphBuilder, x: str) -> str:
    """[1, tokens, hidden] -> [1, 1, hidden]: nobody needs the other tokens' scores."""
    return graph.node("Gather", [x, graph.constant("last", np.array([-1], np.int64))], f"{x}.last", axis=1)
