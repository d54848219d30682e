"""Cost terms of a model's nodes, as one segment or one by one."""

from __future__ import annotations

from collections.abc import Sequence

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.segment_terms import node_terms, segment_terms

from ..graph.model_graph import Graph


def segment_terms_of(graph: Graph, nodes: Sequence[str]) -> tuple[CostTerm, ...]:
    """Return the cost terms of some nodes as one segment; `nodes` in the model's order."""
    instances = graph.op_instances
    return tuple(segment_terms([instances[n] for n in nodes if n in instances], boundary_outputs(graph, nodes)))


def node_terms_of(graph: Graph, nodes: Sequence[str]) -> dict[str, list[CostTerm]]:
    """Return the cost terms of each node of a segment; those of its boundary are left out."""
    instances = graph.op_instances
    return node_terms([instances[n] for n in nodes if n in instances], boundary_outputs(graph, nodes))


def boundary_outputs(graph: Graph, nodes: Sequence[str]) -> list[str]:
    """Return the tensors that some nodes compute and other nodes, or the caller, read."""
    inside = set(nodes)
    model_outputs = {str(value.name) for value in graph.model.graph.outputs}
    return [
        str(value.name)
        for name in nodes
        for value in graph.nodes[name].outputs
        if value.name in model_outputs or any(str(user.name) not in inside for user, _ in value.uses())
    ]
