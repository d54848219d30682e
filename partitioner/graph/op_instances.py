"""Graph -> works: each node as a cost model sees it, with the shapes that it really has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from trisect.profiles.costmodel.cost_terms import Term
from trisect.profiles.costmodel.op_instance import Tensor, Work
from trisect.profiles.costmodel.segment_terms import node_terms, segment_terms

from .model_graph import Graph, used_values
from .node_features import shape_of, size_bytes, subgraphs

_LONGEST_LIST = 8


def works(graph: Graph) -> dict[str, Work]:
    """The nodes of a model that run, by name, in its order.

    Parameters
    ----------
    graph : Graph
    """
    found = {}
    for name, node in graph.nodes.items():
        data = graph.digraph.nodes[name]
        if data["constant"]:
            continue
        given = list(node.inputs) + [value for value in used_values(node) if value not in node.inputs]
        found[name] = Work(
            name,
            node.op_type,
            tuple(_tensor(graph, value) for value in given),
            tuple(made for value in node.outputs if (made := _tensor(graph, value)) is not None),
            {key: value for key, a in node.attributes.items() if (value := _plain(a.value)) is not None},
            data["flops"],
            data["bytes_read"] + data["bytes_written"],
            next(subgraphs(node), None) is not None,
        )
    return found


def terms_of(graph: Graph, known: Mapping[str, Work], nodes: Sequence[str]) -> list[Term]:
    """The summands of the time of some nodes as one segment.

    Parameters
    ----------
    graph : Graph
    known : mapping of str to Work
        See `works`.
    nodes : sequence of str
        Nodes that run, in the model's order.
    """
    return segment_terms([known[name] for name in nodes if name in known], leaving(graph, nodes))


def node_terms_of(graph: Graph, known: Mapping[str, Work], nodes: Sequence[str]) -> dict[str, list[Term]]:
    """As `terms_of`, for each node; without those of the border."""
    return node_terms([known[name] for name in nodes if name in known], leaving(graph, nodes))


def leaving(graph: Graph, nodes: Sequence[str]) -> list[str]:
    """Tensors that some nodes make and others, or the caller, read."""
    inside = set(nodes)
    ends = {str(value.name) for value in graph.model.graph.outputs}
    return [
        str(value.name)
        for name in nodes
        for value in graph.nodes[name].outputs
        if value.name in ends or any(str(user.name) not in inside for user, _ in value.uses())
    ]


def _tensor(graph: Graph, value: ir.Value | None) -> Tensor | None:
    if value is None or not value.name:
        return None
    name = str(value.name)
    constant = name in graph.folded or name in graph.constants
    return Tensor(name, shape_of(value) or (), size_bytes(value), constant)


def _plain(value: Any) -> Any:
    """An attribute as numbers and words; None for a tensor or a body."""
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= _LONGEST_LIST:
        return list(value) if all(isinstance(part, (int, float)) for part in value) else None
    return None
