"""Groups the nodes of a model into tasks: the smallest units that a strategy may place.

Constants and arithmetic on shapes need not run, and are no tasks. Nodes that cannot be separated (what flows between
them is not a tensor, or of unknown rank), or should not be (an operator and the quantisation around it), form one task,
named after the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import networkx as nx

from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph


def task_graph(graph: Graph, *, keep_quantised: bool = True, together: Iterable[Sequence[str]] = ()) -> TaskGraph:
    """Return the nodes of a model that run, grouped into tasks.

    Parameters
    ----------
    keep_quantised : bool
        Whether operators stay together with the quantisation around them.
    together : iterable of sequence of str
        Groups of nodes that stay together, because an engine runs them as one kernel.

    Returns
    -------
    networkx.DiGraph
        In topological order. Tasks have ``nodes`` (names of ONNX nodes), ``operators`` (the features of each), and of
        the node with the most FLOPs ``features`` and ``batch`` (the first dimension of its output; None where unknown);
        edges have ``tensors``: name -> bytes.
    """
    running = {name: data for name, data in graph.digraph.nodes(data=True) if not data["constant"]}
    edges = [
        (source, target, data)
        for source, targets in graph.digraph.adjacency()
        if source in running
        for target, data in targets.items()
        if target in running
    ]
    tasks: TaskGraph = nx.DiGraph()
    owner: dict[str, str] = {}
    for group in _groups(running, edges, keep_quantised, together):
        operators = tuple(running[node]["features"] for node in group)
        heaviest = max(operators, key=lambda f: (f.flops, f.bytes_read + f.bytes_written))
        batch = _batch(running[group[operators.index(heaviest)]])
        tasks.add_node(group[0], nodes=tuple(group), operators=operators, features=heaviest, batch=batch)
        owner.update(dict.fromkeys(group, group[0]))
    joined: dict[tuple[str, str], dict[str, int]] = {}
    for source, target, data in edges:
        ends = owner[source], owner[target]
        if ends[0] != ends[1]:
            joined.setdefault(ends, {}).update(data["tensors"])
    tasks.add_edges_from((source, target, {"tensors": tensors}) for (source, target), tensors in joined.items())
    return tasks


def merged_tasks(
    graph: Graph, tasks: TaskGraph, refused: Mapping[tuple[str, str], str], together: Sequence[Sequence[str]]
) -> tuple[TaskGraph, Mapping[tuple[str, str], str]]:
    """Merge tasks so that no kernel is separated; a merged task is refused where one of its nodes is.

    Parameters
    ----------
    tasks : networkx.DiGraph
        Tasks of the graph.
    refused : mapping
        Task and device id -> why the task cannot run there.
    together : sequence of sequence of str
        Nodes of each kernel.

    Returns
    -------
    tasks, refused
        As the parameters.
    """
    if not together:
        return tasks, refused
    joined = task_graph(graph, together=together)
    owner = task_of_node(joined)
    return joined, {(owner[task], device): why for (task, device), why in reversed(list(refused.items()))}


def nodes_of_tasks(tasks: TaskGraph) -> dict[str, tuple[str, ...]]:
    """Return task -> names of its ONNX nodes."""
    return {task: data["nodes"] for task, data in tasks.nodes(data=True)}


def task_of_node(tasks: TaskGraph) -> dict[str, str]:
    """Return ONNX node -> the task that contains it."""
    return {node: task for task, nodes in tasks.nodes(data="nodes") for node in nodes}


def _batch(node: Mapping[str, Any]) -> int | None:
    shape = next(iter(node["output_shapes"]), None)
    return shape[0] if shape and isinstance(shape[0], int) else None


def _groups(
    running: Mapping[str, Mapping[str, Any]],
    edges: Sequence[tuple[str, str, Mapping[str, Any]]],
    keep_quantised: bool,
    together: Iterable[Sequence[str]],
) -> list[list[str]]:
    """Return the groups of nodes that stay together; nodes and groups in the model's order."""
    fed: set[str] = set()
    readers: Counter[str] = Counter()
    for source, target, _ in edges:
        fed.add(target)
        readers[source] += 1
    # A weight that several operators share (an embedding at both ends of a model) does not tie them together.
    shared = {node for node, count in readers.items() if count > 1 and node not in fed}
    ties = [
        (target, source)
        for source, target, data in edges
        if not data["cuttable"] or (keep_quantised and _is_wrapped(running, source, target, shared))
    ]
    for nodes in together:
        for a, b in pairwise(node for node in nodes if node in running):
            ties += [(a, b), (b, a)]
    if not ties:
        return [[name] for name in running]
    # An edge in both directions puts its ends, and all nodes on paths between them, into one connected component.
    tied: TaskGraph = nx.DiGraph()
    tied.add_nodes_from(running)
    tied.add_edges_from((source, target) for source, target, _ in edges)
    tied.add_edges_from(ties)
    position = {name: i for i, name in enumerate(running)}
    groups = [sorted(group, key=position.__getitem__) for group in nx.strongly_connected_components(tied)]
    return sorted(groups, key=lambda group: position[group[0]])


def _is_wrapped(running: Mapping[str, Mapping[str, Any]], source: str, target: str, shared: set[str]) -> bool:
    """Return whether an edge joins an operator and its (de)quantisation: separated, it would be computed in floats."""
    before, after = running[source]["op_type"], running[target]["op_type"]
    return after == "QuantizeLinear" or (before == "DequantizeLinear" and source not in shared)
