"""Graph -> Problem: which pieces of the model a strategy may move, and what each costs on each device.

What is known beforehand (constants, arithmetic on shapes) is no work and not in the problem. Nodes that cannot be
parted (because what flows between them is no tensor, or of unknown rank), or should not be (an operator and the
quantisation around it), are one task, named after the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import inf

import networkx as nx

from trisect.profiles.features import Costs, OpFeatures
from trisect.runtime.devices import Device
from trisect.runtime.errors import UnsupportedOperator
from trisect.scheduler.problem import Objective, Problem, TaskGraph, tensor_edges

from .graph import Graph


def task_graph(graph: Graph) -> TaskGraph:
    """The parts of a graph that run, as tasks.

    Returns
    -------
    networkx.DiGraph
        In topological order. Tasks have ``nodes`` (names of ONNX nodes), ``work`` (their features) and ``features``
        (those of the node that does most); edges have ``tensors``: name -> bytes.
    """
    whole = graph.digraph
    running = whole.subgraph([n for n, constant in whole.nodes(data="constant") if not constant])
    # A two-way edge ties its ends together, and with them whatever lies on a path from one to the other.
    tied: TaskGraph = nx.DiGraph(running.edges)
    tied.add_nodes_from(running)
    tied.add_edges_from([(b, a) for a, b, data in running.edges(data=True) if not data["cuttable"]])
    tied.add_edges_from([(b, a) for a, b in running.edges if _is_wrapped(running, a, b)])
    position = {name: i for i, name in enumerate(whole)}
    groups = [sorted(group, key=position.__getitem__) for group in nx.strongly_connected_components(tied)]
    home = {node: group[0] for group in groups for node in group}
    tasks: TaskGraph = nx.DiGraph()
    for group in sorted(groups, key=lambda g: position[g[0]]):
        work = tuple(whole.nodes[node]["features"] for node in group)
        heaviest = max(work, key=lambda f: (f.flops, f.bytes_read + f.bytes_written))
        tasks.add_node(group[0], nodes=tuple(group), work=work, features=heaviest)
    for source, target, tensors in tensor_edges(running):
        i, j = home[source], home[target]
        if i != j:
            if not tasks.has_edge(i, j):
                tasks.add_edge(i, j, tensors={})
            tasks.edges[i, j]["tensors"].update(tensors)
    return tasks


def _is_wrapped(graph: TaskGraph, source: str, target: str) -> bool:
    """Whether an edge joins an operator to the (de)quantisation around it: parted, it would be computed in floats.

    A weight that several operators share (an embedding at both ends of a model) does not hold them together.
    """
    before, after = (str(graph.nodes[node]["op_type"]) for node in (source, target))
    is_shared_weight = graph.in_degree(source) == 0 and graph.out_degree(source) > 1
    return after == "QuantizeLinear" or (before == "DequantizeLinear" and not is_shared_weight)


def _check_refusals(tasks: TaskGraph, devices: tuple[Device, ...], refused: Mapping[tuple[str, str], str]) -> None:
    """Say what nobody can run with the devices' own reasons, which the problem no longer knows."""
    for task, nodes in tasks.nodes(data="nodes"):
        reasons = [f"{d.id} ({refused[task, d.id]})" for d in devices if (task, d.id) in refused]
        if devices and len(reasons) == len(devices):
            op_type = tasks.nodes[task]["features"].op_type
            more = f" and the {len(nodes) - 1} nodes that go with it" if len(nodes) > 1 else ""
            raise UnsupportedOperator(
                f"node {task!r} ({op_type}){more} runs on none of {', '.join(reasons)}",
                remedy="add a device that can",
            )


def make_problem(
    graph: Graph,
    devices: Iterable[Device],
    costs: Costs,
    *,
    objective: Objective = "latency",
    forced: Mapping[str, str] | None = None,
    forbidden: Mapping[str, Iterable[str]] | None = None,
    tasks: TaskGraph | None = None,
    refused: Mapping[tuple[str, str], str] | None = None,
) -> Problem:
    """The placement problem of a model on devices with known costs.

    Parameters
    ----------
    graph : Graph
    devices : iterable of Device
    costs : Costs
    objective : {"latency", "throughput"}
    forced, forbidden : mapping, optional
        ONNX node name -> device id, or device ids.
    tasks : networkx.DiGraph, optional
        The graph's `task_graph`, where it is made already.
    refused : mapping, optional
        Task and device id -> why it cannot run there; see `trisect.partitioner.support`.

    Raises
    ------
    UnsupportedOperator, InfeasibleProblem, UnknownDevice
        See `Problem.of`.
    ProfileMissing
        When `costs` does not know a device.
    """
    devices = tuple(devices)
    tasks = task_graph(graph) if tasks is None else tasks
    refused = refused or {}
    _check_refusals(tasks, devices, refused)
    by_id = {device.id: device for device in devices}
    owner = {node: task for task, nodes in tasks.nodes(data="nodes") for node in nodes}

    @cache
    def node_time_s(work: OpFeatures, device_id: str) -> float:
        dtypes = by_id[device_id].limits.dtypes
        if dtypes and work.dtype not in dtypes:
            return inf
        return costs.node_time_s(work, device_id)

    def task_time_s(task: str, device_id: str) -> float:
        if (task, device_id) in refused:
            return inf
        return sum(node_time_s(work, device_id) for work in tasks.nodes[task]["work"])

    known = set(graph.digraph)

    def by_task(node: str) -> str | None:
        # A constant may be told where to go, but there is nothing to place; an unknown name must reach the check.
        return owner.get(node, None if node in known else node)

    return Problem.of(
        tasks,
        devices,
        task_time_s,
        costs.transfer_time_s,
        overhead_s={device.id: costs.call_overhead_s(device.id) for device in devices},
        objective=objective,
        forced={task: device for node, device in (forced or {}).items() if (task := by_task(node)) is not None},
        forbidden={task: ids for node, ids in (forbidden or {}).items() if (task := by_task(node)) is not None},
    )
