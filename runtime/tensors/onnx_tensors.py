"""Iterates over all constant tensors of an ONNX model: initialisers, attributes, bodies and functions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def all_tensors(proto: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield every constant tensor in a model, graph or node, including control-flow bodies and functions.

    Yields
    ------
    onnx.TensorProto
        The tensors themselves, not copies: changing one changes the model.
    """
    pending: list[onnx.ModelProto | onnx.GraphProto | onnx.NodeProto | onnx.FunctionProto] = [proto]
    while pending:
        item = pending.pop()
        if isinstance(item, onnx.ModelProto):
            pending.extend([item.graph, *item.functions])
        elif isinstance(item, onnx.NodeProto):
            for attribute in item.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
        else:
            if isinstance(item, onnx.GraphProto):
                yield from item.initializer
                for sparse in item.sparse_initializer:
                    yield sparse.values
                    yield sparse.indices
            pending.extend(item.node)
