"""Graph -> Problem: which pieces of the model a strategy may move, and what each costs on each device.

What is known beforehand (constants, arithmetic on shapes) is no work and not in the problem. Nodes that cannot be
parted (because what flows between them is no tensor, or of unknown rank), or should not be (an operator and the
quantisation around it), are one task, named after the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, permutations
from math import inf
from typing import Any

import networkx as nx

from trisect.profiles.costmodel.op_features import Costs, OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.runtime.device import Device
from trisect.runtime.errors import UnsupportedOperator
from trisect.scheduler.problem.core_sharing import CoreSharing
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules
from trisect.scheduler.problem.task_graph import TaskGraph

from ..costs.model_costs import LearnedCosts, borders_of, task_times_s
from ..graph.model_graph import Graph
from ..graph.op_instances import works
from ..planning.paused_gc import uncollected


def task_graph(graph: Graph, *, keep_quantised: bool = True, together: Iterable[Sequence[str]] = ()) -> TaskGraph:
    """The parts of a graph that run, as tasks.

    Parameters
    ----------
    graph : Graph
    keep_quantised : bool
        Keep operators together with the quantisation around them.
    together : iterable of sequence of str
        Nodes to keep together, because an engine runs them as one kernel.

    Returns
    -------
    networkx.DiGraph
        In topological order. Tasks have ``nodes`` (names of ONNX nodes), ``work`` (their features), and of the node
        that does most ``features`` and ``batch`` (how many inputs it works on at once, by the first dimension of what
        it makes; None where that is not known); edges have ``tensors``: name -> bytes.
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
    home: dict[str, str] = {}
    for group in _groups(running, edges, keep_quantised, together):
        work = tuple(running[node]["features"] for node in group)
        heaviest = work[0] if len(work) == 1 else max(work, key=lambda f: (f.flops, f.bytes_read + f.bytes_written))
        batch = _batch(running[group[work.index(heaviest)]])
        tasks.add_node(group[0], nodes=tuple(group), work=work, features=heaviest, batch=batch)
        home.update(dict.fromkeys(group, group[0]))
    joined: dict[tuple[str, str], dict[str, int]] = {}
    for source, target, data in edges:
        ends = home[source], home[target]
        if ends[0] != ends[1]:
            joined.setdefault(ends, {}).update(data["tensors"])
    tasks.add_edges_from((source, target, {"tensors": tensors}) for (source, target), tensors in joined.items())
    return tasks


def regrouped(
    graph: Graph, tasks: TaskGraph, refused: dict[tuple[str, str], str], together: Sequence[Sequence[str]]
) -> tuple[TaskGraph, dict[tuple[str, str], str]]:
    """Tasks that part no kernel, and what is refused of them: whatever is refused of one of their nodes.

    Parameters
    ----------
    graph : Graph
    tasks : networkx.DiGraph
        Of the graph, smaller ones.
    refused : dict
        Task and device id -> why it cannot run there.
    together : sequence of sequence of str
        Nodes of each kernel.
    """
    if not together:
        return tasks, refused
    joined = task_graph(graph, together=together)
    home = {node: task for task, nodes in joined.nodes(data="nodes") for node in nodes}
    return joined, {(home[task], device): why for (task, device), why in reversed(refused.items())}


def _batch(node: Mapping[str, Any]) -> int | None:
    shape = next(iter(node["output_shapes"]), None)
    return shape[0] if shape and isinstance(shape[0], int) else None


def _groups(
    running: Mapping[str, Mapping[str, Any]],
    edges: Sequence[tuple[str, str, Mapping[str, Any]]],
    keep_quantised: bool,
    together: Iterable[Sequence[str]],
) -> list[list[str]]:
    """Nodes that stay together, each group and all groups in the order of the model."""
    fed: set[str] = set()
    readers: Counter[str] = Counter()
    for source, target, _ in edges:
        fed.add(target)
        readers[source] += 1
    # A weight that several operators share (an embedding at both ends of a model) does not hold them together.
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
    # A two-way edge ties its ends together, and with them whatever lies on a path from one to the other.
    tied: TaskGraph = nx.DiGraph()
    tied.add_nodes_from(running)
    tied.add_edges_from((source, target) for source, target, _ in edges)
    tied.add_edges_from(ties)
    position = {name: i for i, name in enumerate(running)}
    groups = [sorted(group, key=position.__getitem__) for group in nx.strongly_connected_components(tied)]
    return sorted(groups, key=lambda group: position[group[0]])


def _is_wrapped(running: Mapping[str, Mapping[str, Any]], source: str, target: str, shared: set[str]) -> bool:
    """Whether an edge joins an operator to the (de)quantisation around it: parted, it would be computed in floats."""
    before, after = running[source]["op_type"], running[target]["op_type"]
    return after == "QuantizeLinear" or (before == "DequantizeLinear" and source not in shared)


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


@uncollected()
def make_problem(
    graph: Graph,
    devices: Iterable[Device],
    costs: Costs,
    *,
    objective: Objective = "latency",
    tasks: TaskGraph | None = None,
    refused: Mapping[tuple[str, str], str] | None = None,
    power_w: Mapping[str, float] | None = None,
    nodes_s: Mapping[str, Mapping[str, float]] | None = None,
    factors: Mapping[tuple[str, str], float] | None = None,
    weights_bytes: Mapping[str, float] | None = None,
) -> Problem:
    """Build the placement problem of a model on devices with known costs.

    Parameters
    ----------
    graph : Graph
    devices : iterable of Device
    costs : Costs
    objective : {"latency", "throughput", "energy", "memory"}
    tasks : networkx.DiGraph, optional
        The graph's `task_graph`, where it is made already.
    refused : mapping, optional
        Task and device id -> why it cannot run there; see `trisect.partitioner.problem.device_support`.
    power_w : mapping of str to float, optional
        Device id -> watts while it works, where known.
    nodes_s : mapping, optional
        Device id -> node -> seconds, where the model itself was measured: instead of `costs`.
    factors : mapping, optional
        Task and device id -> how much longer it takes in a plan that ran than `costs` predict; 1 where left out.
    weights_bytes : mapping of str to float, optional
        Bytes of each task's constants.

    Raises
    ------
    UnsupportedOperator, InfeasibleProblem
        See `Problem.of`.
    ProfileMissing
        When `costs` does not know a device, or its power is needed and not known.
    """
    devices = tuple(devices)
    tasks = task_graph(graph) if tasks is None else tasks
    refused = refused or {}
    _check_refusals(tasks, devices, refused)
    known_rows: dict[OpFeatures, dict[str, float]] = {}

    def row_of(work: OpFeatures) -> dict[str, float]:
        row = known_rows.get(work)
        if row is None:
            row = known_rows[work] = {
                d.id: inf if d.limits.dtypes and work.dtype not in d.limits.dtypes else costs.node_time_s(work, d.id)
                for d in devices
            }
        return row

    times_s: dict[str, dict[str, float]] = {}
    for task, data in tasks.nodes(data=True):
        rows = [row_of(work) for work in data["work"]]
        times_s[task] = rows[0] if len(rows) == 1 else {d.id: sum(row[d.id] for row in rows) for d in devices}
    known = works(graph) if isinstance(costs, LearnedCosts) else {}
    if isinstance(costs, LearnedCosts):
        for task, learned in task_times_s(graph, tasks, known, costs).items():
            row = times_s[task]
            times_s[task] = {**row, **{key: t for key, t in learned.items() if row.get(key, inf) < inf}}
    for device_id, known_s in (nodes_s or {}).items():
        for task, nodes in tasks.nodes(data="nodes"):
            if times_s[task][device_id] < inf and all(node in known_s for node in nodes):
                times_s[task] = {**times_s[task], device_id: sum(known_s[node] for node in nodes)}
    for (task, device_id), factor in (factors or {}).items():
        times_s[task] = {**times_s[task], device_id: times_s[task][device_id] * factor}
    for task, device_id in refused:
        if task in times_s:
            times_s[task] = {**times_s[task], device_id: inf}
    return Problem.of(
        tasks,
        devices,
        times_s,
        _platform(devices, costs, power_w or {}),
        objective=objective,
        rules=Rules(sizes_bytes=weights_bytes or {}),
        boundary_costs=borders_of(known, devices, costs) if isinstance(costs, LearnedCosts) else None,
        why_not=refused,
    )


def _platform(devices: Sequence[Device], costs: Costs, power_w: Mapping[str, float]) -> Platform:
    """Return what holds for the devices whatever the model is."""
    links = {(a.id, b.id): costs.link(a.id, b.id) for a, b in permutations(devices, 2)}
    overhead_s = {device.id: costs.call_overhead_s(device.id) for device in devices}
    if not (isinstance(costs, ProfileCosts) and costs.is_measured):
        return Platform(links, call_overhead_s=overhead_s, power_w=power_w)
    # CPU engines of one node compute on the same cores.
    cores = {device.id: f"{device.node}/cores" for device in devices if device.kind == "cpu"}
    return Platform(
        links,
        call_overhead_s=overhead_s,
        power_w=power_w,
        memory=costs.memory_needs(),
        core_sharing=CoreSharing(costs.slowdowns(), groups=cores),
        wakeup_costs=costs.wakings(),
    )
