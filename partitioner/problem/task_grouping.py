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

_QUANTISATION = frozenset(("QuantizeLinear", "DequantizeLinear"))


def task_graph(
    graph: Graph,
    *,
    keep_quantised: bool = True,
    together: Iterable[Sequence[str]] = (),
    named: Mapping[str, frozenset[str]] | None = None,
) -> TaskGraph:
    """Return the nodes of a model that run, grouped into tasks.

    Parameters
    ----------
    keep_quantised : bool
        Whether operators stay together with the quantisation around them.
    together : iterable of sequence of str
        Groups of nodes that stay together, because an engine runs them as one kernel.
    named : mapping, optional
        Nodes that the user's constraints name -> where they may run. Such a node stays together only with nodes of
        which the same was said, so that a constraint moves the nodes that it names and no others.

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
    for group in _groups(running, edges, keep_quantised, together, named or {}):
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
    graph: Graph,
    tasks: TaskGraph,
    refused: Mapping[tuple[str, str], str],
    together: Sequence[Sequence[str]],
    named: Mapping[str, frozenset[str]],
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
    named : mapping
        As of `task_graph`.

    Returns
    -------
    tasks, refused
        As the parameters.
    """
    if not together:
        return tasks, refused
    joined = task_graph(graph, together=together, named=named)
    owner, members = task_of_node(joined), nodes_of_tasks(tasks)
    return joined, {
        (owner[node], device): why
        for (task, device), why in reversed(list(refused.items()))
        for node in members.get(task, ())
    }


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
    named: Mapping[str, frozenset[str]],
) -> list[list[str]]:
    """Return the groups of nodes that stay together; nodes and groups in the model's order."""
    fed: set[str] = set()
    readers: Counter[str] = Counter()
    for source, target, _ in edges:
        fed.add(target)
        readers[source] += 1
    # A weight that several operators share (an embedding at both ends of a model) does not tie them together.
    shared = {node for node, count in readers.items() if count > 1 and node not in fed}
    ties = [(target, source) for source, target, data in edges if not data["cuttable"]]
    loose = [
        (target, source)
        for source, target, _ in edges
        if keep_quantised and _is_wrapped(running, source, target, shared)
    ]
    for nodes in together:
        for a, b in pairwise(node for node in nodes if node in running):
            loose += [(a, b), (b, a)]
    if not ties and not loose:
        return [[name] for name in running]
    free = {name for name, data in running.items() if name not in named and data["op_type"] in _QUANTISATION}
    loose = [(a, b) for a, b in loose if named.get(a) == named.get(b) or a in free or b in free]
    position = {name: i for i, name in enumerate(running)}
    while True:
        groups = _tied_groups(running, edges, [*ties, *loose])
        mixed: set[str] = set()
        for group in groups:
            if len({named.get(node) for node in group if node not in free}) > 1:
                mixed.update(group)
        if not any(a in mixed for a, _ in loose):
            break
        loose = [(a, b) for a, b in loose if a not in mixed]
    ordered = [sorted(group, key=position.__getitem__) for group in groups]
    return sorted(ordered, key=lambda group: position[group[0]])


def _tied_groups(
    running: Iterable[str], edges: Sequence[tuple[str, str, Mapping[str, Any]]], ties: Iterable[tuple[str, str]]
) -> list[set[str]]:
    # An edge in both directions puts its ends, and all nodes on paths between them, into one connected component.
    tied: TaskGraph = nx.DiGraph()
    tied.add_nodes_from(running)
    tied.add_edges_from((source, target) for source, target, _ in edges)
    tied.add_edges_from(ties)
    return list(nx.strongly_connected_components(tied))


def _is_wrapped(running: Mapping[str, Mapping[str, Any]], source: str, target: str, shared: set[str]) -> bool:
    """Return whether an edge joins an operator and its (de)quantisation: separated, it would be computed in floats."""
    before, after = running[source]["op_type"], running[target]["op_type"]
    return after == "QuantizeLinear" or (before == "DequantizeLinear" and source not in shared)
