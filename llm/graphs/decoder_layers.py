"""Pieces of a decoder that both graphs of a language model are made of: products, embedding, rotation tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..gguf.llama_config import LlamaConfig
from .weights_file import Dense, GraphBuilder, Span, Weight

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
    """Quantised weights in 8 bits and wide blocks: multiplies fastest."""
    exact_layers: tuple[Layer, ...]
    """The same in the file's own blocks (with offsets for Q4_1): exact, and the fewest bytes to read."""


def product(graph: GraphBuilder, x: str, weight: Weight, name: str, *, result: str | None = None) -> str:
    """``x @ weight.T`` for x [..., columns], or [tokens, columns] where the weight has offsets."""
    result = result or name
    rows, columns = weight.shape
    if isinstance(weight, Dense):
        transposed = graph.node("Transpose", [graph.constant(f"{name}.weight", weight.data)], f"{name}.t", perm=[1, 0])
        return graph.node("MatMul", [x, transposed], result)
    stored = [graph.constant(f"{name}.weight", weight.data), graph.constant(f"{name}.scales", weight.scales)]
    inputs = [x, *stored]
    attributes = {"N": rows, "K": columns, "bits": weight.bits, "block_size": weight.block, "accuracy_level": 4}
    if weight.offset is None:
        return graph.node("MatMulNBits", inputs, result, domain=MICROSOFT, **attributes)
    # Every weight of a block is off by the same amount, so what is missing is that times the sum of the input's block.
    y = graph.node("MatMulNBits", inputs, f"{name}.levels", domain=MICROSOFT, **attributes)
    ones = np.kron(np.eye(columns // weight.block, dtype=np.float32), np.ones((weight.block, 1), np.float32))
    sums = graph.node("MatMul", [x, graph.constant(f"block_sums.{columns}", ones)], f"{name}.sums")
    offset = graph.constant(f"{name}.offset", weight.offset)
    # Gemm adds its product to what is there: one kernel where MatMul and Add are two.
    return graph.node("Gemm", [sums, offset, y], result, transB=1)


def embed(graph: GraphBuilder, weight: Weight, ids: str, shape: list[int]) -> str:
    """Rows of the embedding in a shape that ends in hidden; of a table in blocks only those asked for are widened."""
    target = graph.constant("embedding.shape", np.array(shape, np.int64))
    if isinstance(weight, Dense):
        rows = graph.node("Gather", [graph.constant("embedding.weight", weight.data), ids], "embedding.rows")
        return graph.node("Reshape", [rows, target], "embedding")
    levels = graph.node("Gather", [graph.constant("embedding.weight", weight.data), ids], "embedding.levels")
    levels = graph.node("Cast", [levels], "embedding.float", to=TensorProto.FLOAT)
    zero = graph.constant("embedding.zero", np.asarray(1 << (weight.bits - 1), np.float32))
    centred = graph.node("Sub", [levels, zero], "embedding.centred")
    scale = graph.node("Gather", [graph.constant("embedding.scales", weight.scales), ids], "embedding.scale")
    last = graph.constant("embedding.last_axis", np.array([3], np.int64))
    scale = graph.node("Unsqueeze", [scale, last], "embedding.scale4")
    return graph.node("Reshape", [graph.node("Mul", [centred, scale], "embedding.blocks"), target], "embedding")


def logits(graph: GraphBuilder, weights: ModelWeights, x: str, config: LlamaConfig) -> str:
    """Scores over the vocabulary, [1, 1, vocabulary], for one token's normalised x [..., hidden].

    Where the embedding is the output projection too, each has an initializer of its own over the same bytes: an engine
    that packs the projection can then let go of those, of which the embedding reads a few rows.
    """
    scores = product(graph, x, weights.output, "output")
    graph.node("Reshape", [scores, graph.constant("scores.shape", np.array([1, 1, config.vocab], np.int64))], "logits")
    return graph.output("logits", TensorProto.FLOAT, [1, 1, config.vocab])


def last_token(graph: GraphBuilder, x: str, axis: int) -> str:
    """The last of the tokens along an axis, which stays: nobody needs the other tokens' scores."""
    return graph.node("Gather", [x, graph.constant("last", np.array([-1], np.int64))], f"{x}.last", axis=axis)
