"""Adds to a graph what it does with weights: matrix products, and rows looked up in the embedding."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .weights_file import Dense, GraphBuilder, Linear, ScaleSpan, Span, Weight

MICROSOFT = "com.microsoft"


def product(graph: GraphBuilder, x: str, weight: Weight, name: str, *, batched: bool = False) -> str:
    """Add ``x @ weight.T`` and return its output.

    Parameters
    ----------
    x : str
        [tokens, columns], or [batch, tokens, columns] if `batched`.
    """
    if isinstance(weight, Dense):
        stored = stored_floats(graph, weight.data, f"{name}.weight")
        return graph.node("MatMul", [x, graph.node("Transpose", [stored], f"{name}.t", perm=[1, 0])], name)
    if not isinstance(weight, Linear):
        parts = [
            product(graph, x, part, f"{name}.part.{index}", batched=batched) for index, part in enumerate(weight.parts)
        ]
        return graph.node("Concat", parts, name, axis=-1)
    form, (rows, columns) = weight.form, weight.shape
    scales = _scales(graph, weight.scales, f"{name}.scales")
    inputs = [x, graph.constant(f"{name}.weight", weight.data), scales]
    attributes = {"N": rows, "K": columns, "bits": form.bits, "block_size": form.block, "accuracy_level": 4}
    if not form.has_offsets:
        return graph.node("MatMulNBits", inputs, name, domain=MICROSOFT, **attributes)
    # All weights of a block lack the same offset: add the offset times the sum of the input's block.
    y = graph.node("MatMulNBits", inputs, f"{name}.levels", domain=MICROSOFT, **attributes)
    sums = graph.block_sums(x, columns, form.block, batched=batched)
    offsets = _offsets(graph, weight, scales, name)
    if not batched:  # Gemm multiplies and adds in one kernel
        return graph.node("Gemm", [sums, offsets, y], name, transB=1)
    turned = graph.node("Transpose", [offsets], f"{name}.offset.t", perm=[1, 0])
    return graph.node("Add", [y, graph.node("MatMul", [sums, turned], f"{name}.correction")], name)


def embedding_rows(graph: GraphBuilder, weight: Weight, ids: str) -> str:
    """Look up rows; their last axis, or last two, are the columns. Quantised rows are widened after the lookup.

    Raises
    ------
    ValueError
        For stacked weights: an embedding is one tensor.
    """
    if isinstance(weight, Dense):
        rows = graph.node("Gather", [graph.constant("embedding.weight", weight.data), ids], "embedding.rows")
        if weight.data.dtype != np.float32:
            rows = graph.node("Cast", [rows], "embedding.float", to=TensorProto.FLOAT)
        return rows
    if not isinstance(weight, Linear):
        raise ValueError("an embedding of stacked weights")
    form, blocks = weight.form, weight.data.shape[1]
    levels = graph.node("Gather", [graph.constant("embedding.weight", weight.data), ids], "embedding.packed")
    levels = graph.node("Cast", [levels], "embedding.levels", to=TensorProto.FLOAT)
    if form.bits == 4:
        levels = _nibbles(graph, levels, [-1, blocks, form.block])
    else:
        by_block = graph.constant("embedding.by_block", np.array([-1, blocks, form.block], np.int64))
        levels = graph.node("Reshape", [levels, by_block], "embedding.by_row")
    zero = graph.constant("embedding.zero", np.asarray((1 << (form.bits - 1)) - form.shift, np.float32))
    centred = graph.node("Sub", [levels, zero], "embedding.centred")
    scales = _looked_up(graph, weight.scales, ids, blocks, "embedding.scales")
    rows = graph.node("Mul", [centred, scales], "embedding.blocks")
    if weight.offsets is not None:
        offsets = _looked_up(graph, weight.offsets, ids, blocks, "embedding.offsets")
        rows = graph.node("Sub" if weight.subtracts else "Add", [rows, offsets], "embedding.shifted")
    return rows


def stored_floats(graph: GraphBuilder, span: Span, name: str) -> str:
    """Add a stored array, as float32: engines convert constants once, when they load the graph."""
    if span.dtype == np.float32:
        return graph.constant(name, span)
    return graph.node("Cast", [graph.constant(f"{name}.stored", span)], name, to=TensorProto.FLOAT)


def _scales(graph: GraphBuilder, scales: ScaleSpan, name: str) -> str:
    """Add scales or offsets [rows, blocks]."""
    if scales.factor is None:
        return stored_floats(graph, scales.base, name)
    rows, blocks = scales.factor.shape
    base = stored_floats(graph, scales.base.reshaped(rows, -1, 1), f"{name}.base")
    factor = stored_floats(graph, scales.factor.reshaped(rows, scales.base.shape[1], -1), f"{name}.factor")
    product_of_both = graph.node("Mul", [base, factor], f"{name}.products")
    shape = graph.constant(f"shape.{rows}x{blocks}", np.array([rows, blocks], np.int64))
    return graph.node("Reshape", [product_of_both, shape], name)


def _offsets(graph: GraphBuilder, weight: Linear, scales: str, name: str) -> str:
    """Add what is missing from every weight of a block after multiplying by the levels as stored."""
    shift = weight.form.shift
    parts = []
    if shift:
        parts.append(
            graph.node("Mul", [scales, graph.constant(f"shift.{shift}", np.array(shift, np.float32))], f"{name}.shift")
        )
    if weight.offsets is not None:
        parts.append(_scales(graph, weight.offsets, f"{name}.offsets"))
        if weight.subtracts and not shift:
            return graph.node("Neg", parts, f"{name}.offset")
    if len(parts) == 1:
        return parts[0]
    return graph.node("Sub" if weight.subtracts else "Add", parts, f"{name}.offset")


def _looked_up(graph: GraphBuilder, scales: ScaleSpan, ids: str, blocks: int, name: str) -> str:
    """Gather scales or offsets of some rows, [tokens, blocks, 1]."""
    target = graph.constant("embedding.by_scale", np.array([-1, blocks, 1], np.int64))
    parts = []
    for part, span in (("base", scales.base), ("factor", scales.factor)):
        if span is not None:
            rows = graph.node("Gather", [graph.constant(f"{name}.{part}.stored", span), ids], f"{name}.{part}.rows")
            if span.dtype != np.float32:
                rows = graph.node("Cast", [rows], f"{name}.{part}", to=TensorProto.FLOAT)
            parts.append(rows)
    if len(parts) == 1:
        return graph.node("Reshape", [parts[0], target], name)
    supers = scales.base.shape[1]
    one_each = graph.constant("embedding.by_base", np.array([-1, supers, 1], np.int64))
    several = graph.constant("embedding.by_factor", np.array([-1, supers, blocks // supers], np.int64))
    base = graph.node("Reshape", [parts[0], one_each], f"{name}.base.3d")
    factor = graph.node("Reshape", [parts[1], several], f"{name}.factor.3d")
    return graph.node("Reshape", [graph.node("Mul", [base, factor], f"{name}.products"), target], name)


def _nibbles(graph: GraphBuilder, packed: str, shape: list[int]) -> str:
    """Split bytes, as float32, into two levels each; the low half is first."""
    sixteen = graph.constant("embedding.sixteen", np.array(16, np.float32))
    high = graph.node("Floor", [graph.node("Div", [packed, sixteen], "embedding.quotient")], "embedding.high")
    low = graph.node("Sub", [packed, graph.node("Mul", [high, sixteen], "embedding.high16")], "embedding.low")
    last = graph.constant("embedding.last_axis", np.array([-1], np.int64))
    halves = [graph.node("Unsqueeze", [half, last], f"{half}.halves") for half in (low, high)]
    pairs = graph.node("Concat", halves, "embedding.pairs", axis=-1)
    return graph.node(
        "Reshape", [pairs, graph.constant("embedding.by_level", np.array(shape, np.int64))], "embedding.split"
    )
