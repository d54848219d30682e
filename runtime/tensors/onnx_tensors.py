"""Iterates over the constant tensors of an ONNX model, wherever they are, and over the graphs inside its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

_Message = ModelProto | GraphProto | NodeProto | FunctionProto | AttributeProto


def all_tensors(proto: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield every constant tensor in a model, graph or node.

    Those are initialisers, dense and sparse, and tensors of attributes, in the graph, in control-flow bodies at any
    depth, in functions (also the default values of their attributes) and in the graphs for training.

    Yields
    ------
    onnx.TensorProto
        The tensors themselves, not copies: changing one changes the model.
    """
    pending: list[_Message] = [proto]
    while pending:
        item = pending.pop()
        match item:
            case ModelProto():
                pending += [item.graph, *item.functions]
                for training in item.training_info:
                    pending += [training.initialization, training.algorithm]
            case GraphProto():
                yield from item.initializer
                yield from _of_sparse(item.sparse_initializer)
                pending += item.node
            case FunctionProto():
                pending += [*item.attribute_proto, *item.node]
            case NodeProto():
                pending += item.attribute
            case AttributeProto():
                if item.HasField("t"):
                    yield item.t
                yield from item.tensors
                if item.HasField("sparse_tensor"):
                    yield from _of_sparse([item.sparse_tensor])
                yield from _of_sparse(item.sparse_tensors)
                pending += _graphs_of(item)


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node: the branches of an `If`, the body of a `Loop`."""
    return [body for attribute in node.attribute for body in _graphs_of(attribute)]


def _graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _of_sparse(sparse_tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for sparse in sparse_tensors:
        yield from (sparse.values, sparse.indices)
