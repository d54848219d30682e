"""Makes a decoder compute scores (logits) for the last token only; those of other prompt tokens are never used.

Exporters multiply every token's hidden state by the output projection. Going back from ``logits`` over operators that
work on each token separately, past one product with a constant, leads to a single value that all others depend on: the
hidden state. Gathering its last row there does not change the scores of the last token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_PRODUCTS = frozenset({"MatMul", "MatMulNBits", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "FusedMatMul"})
_BY_TOKEN = _PRODUCTS | {
    *("Add", "Cast", "Clip", "Div", "Identity", "Mul", "Neg", "Sub", "Tanh", "Where"),
    *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
}


@dataclass(frozen=True)
class LmHead:
    """The part of a decoder that computes the scores over the vocabulary."""

    hidden: ir.Value
    """The hidden state, [batch, tokens, hidden]."""
    nodes: tuple[ir.Node, ...]
    """The nodes that compute the scores from it."""


def dynamic_values(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on the graph's inputs; all others are constants, stored or computed.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Nodes in topological order.
    """
    dynamic = set(graph.inputs)
    for node in graph:
        used = [*node.inputs, *(v for n in _nodes_within(node) for v in n.inputs)]
        if any(value in dynamic for value in used if value is not None):
            dynamic.update(node.outputs)
    return dynamic


def find_lm_head(graph: ir.Graph, logits: ir.Value) -> LmHead | None:
    """Return the part of a decoder after its last hidden state; None if it is of an unknown form.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Nodes in topological order.
    logits : onnx_ir.Value
        [batch, tokens, vocabulary].
    """
    position = {node: index for index, node in enumerate(graph)}
    dynamic = dynamic_values(graph)
    pending, multiplied = {logits}, False
    nodes: list[ir.Node] = []
    while True:
        producers = [value.producer() for value in pending]
        if multiplied and len(pending) == 1:
            (hidden,) = pending
            ranks = {len(value.shape) for value in (hidden, logits) if value.shape is not None}
            return LmHead(hidden, tuple(nodes)) if ranks <= {3} else None
        last = max((node for node in producers if node is not None), key=position.__getitem__, default=None)
        if last is None or None in producers or last.op_type not in _BY_TOKEN:
            return None
        nodes.append(last)
        read = {value for value in last.inputs if value is not None and value in dynamic}
        # A product whose second factor is computed is attention, not a projection.
        if last.op_type in _PRODUCTS and (last.inputs[1] is None or last.inputs[1] in dynamic):
            return None
        multiplied = multiplied or last.op_type in _PRODUCTS
        pending = (pending - set(last.outputs)) | read


def keep_last_token(graph: ir.Graph, logits: ir.Value) -> tuple[ir.Value, LmHead | None]:
    """Edit a graph so that it computes scores for the last token only.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Nodes in topological order, before and after.
    logits : onnx_ir.Value
        [batch, tokens, vocabulary].

    Returns
    -------
    scores : onnx_ir.Value
        [batch, 1, vocabulary]; another value than `logits` if the head was not recognised, and the last of all scores
        are gathered instead.
    head : LmHead or None
        The edited part; None if it was not recognised.
    """
    head = find_lm_head(graph, logits)
    index = ir.Value(name="trisect.last", const_value=ir.tensor(np.array([-1], np.int64), name="trisect.last"))
    graph.register_initializer(index)
    all_tokens = logits if head is None else head.hidden
    gather = ir.node("Gather", [all_tokens, index], {"axis": 1}, name="trisect.last_token")
    row = gather.outputs[0]
    row.name, row.type = "trisect.last_token", all_tokens.type
    if head is None:
        graph.append(gather)
        return row, None
    graph.insert_before(head.nodes[-1], gather)
    for node in head.nodes:
        for at, value in enumerate(node.inputs):
            if value is head.hidden:
                node.replace_input_with(at, row)
    return logits, head


def _nodes_within(node: ir.Node) -> list[ir.Node]:
    """Return the nodes of a control-flow node's bodies."""
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies.extend(attribute.as_graphs())
    return [inner for body in bodies for inner in body.all_nodes()]
