"""Graphs of Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph Operators", NeurIPS 2020.

JSON with hosts of one kind and equal accelerators. Accelerators fetch from and send to the host's memory, at a cost per
task that the file states directly; between two accelerators it is paid twice.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from math import isfinite
from typing import Annotated

import msgspec
import networkx as nx

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidModel
from trisect.runtime.untrusted_files import MalformedFile, decode_json

from ..problem.platform import Platform
from ..problem.problem_tables import ProblemTables
from ..problem.rules import Objective, Rules
from ..problem.task_graph import TaskGraph

_PER_UNIT = 10**9
"""Transfers are counted in billionths of the file's unit of time: sizes of tensors are whole numbers."""

_MAX_DEVICES = 1024

_Number = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
_Cost = Annotated[float, msgspec.Meta(ge=0, le=2**62 / _PER_UNIT)]
_Flag = bool | int


class _OffloadNode(msgspec.Struct):
    id: int
    supportedOnFpga: _Flag
    cpuLatency: _Number
    fpgaLatency: _Number
    isBackwardNode: _Flag = False
    colorClass: int | None = None
    size: _Number = 0.0
    name: str = ""


class _OffloadEdge(msgspec.Struct):
    sourceId: int
    destId: int
    cost: _Cost = 0.0


class _OffloadFile(msgspec.Struct):
    maxFPGAs: Annotated[int, msgspec.Meta(ge=0, le=_MAX_DEVICES)]
    maxCPUs: Annotated[int, msgspec.Meta(ge=0, le=_MAX_DEVICES)]
    maxSizePerFPGA: Annotated[float, msgspec.Meta(ge=0)]
    nodes: list[_OffloadNode]
    edges: list[_OffloadEdge]


def read_offload_graph(text: str, name: str, objective: Objective, contiguous: bool) -> ProblemTables:
    """Read one graph.

    Parameters
    ----------
    text : str
        The file's content.
    name : str
        Name of the file, for messages.
    objective : {"throughput", "latency"}

    Raises
    ------
    InvalidModel
    """
    try:
        file = decode_json(text, _OffloadFile)
    except MalformedFile as error:
        raise InvalidModel(f"{name} is not a device-placement graph: {error}", remedy="check the file") from None
    graph = _graph(file, name)
    # Latency assumes as many host cores as the graph is wide: one device without queueing represents them.
    hosts = 1 if objective == "latency" else file.maxCPUs
    devices = [Device(f"cpu:{i}", "cpu", "published", f"host core {i}", "published") for i in range(hosts)]
    memory_bytes = int(min(file.maxSizePerFPGA, 2.0**62))
    devices += [
        Device(f"npu:{i}", "npu", "published", f"accelerator {i}", "published", memory_bytes)
        for i in range(file.maxFPGAs)
    ]
    times = {}
    colours: dict[int, list[str]] = defaultdict(list)
    for node in file.nodes:
        row = {d.id: node.cpuLatency for d in devices if d.kind == "cpu"}
        if node.supportedOnFpga:
            row |= {d.id: node.fpgaLatency for d in devices if d.kind == "npu"}
        times[str(node.id)] = row
        if node.colorClass is not None:
            colours[node.colorClass].append(str(node.id))
    to_host, by_way_of_host = LinkCost(bytes_per_s=_PER_UNIT), LinkCost(bytes_per_s=_PER_UNIT / 2)
    host_ids = {d.id for d in devices if d.kind == "cpu"}
    links = {}
    for host, device in product(sorted(host_ids), devices):
        links[host, device.id] = links[device.id, host] = LinkCost() if device.id in host_ids else to_host
    return ProblemTables(
        graph,
        tuple(devices),
        times,
        Platform(links, by_way_of_host),
        objective,
        Rules(
            convention="offload",
            contiguous=contiguous,
            sizes_bytes={str(node.id): node.size for node in file.nodes if node.size > 0},
            colocated=tuple(tuple(tasks) for tasks in colours.values() if len(tasks) > 1),
            backward=frozenset(str(node.id) for node in file.nodes if node.isBackwardNode),
        ),
    )


def _graph(file: _OffloadFile, name: str) -> TaskGraph:
    graph: TaskGraph = nx.DiGraph()
    for node in file.nodes:
        if str(node.id) in graph:
            raise InvalidModel(f"{name} has two nodes with the id {node.id}", remedy="check the file")
        if not all(map(isfinite, (node.cpuLatency, node.fpgaLatency, node.size))):
            raise InvalidModel(f"{name}: node {node.id} has an infinite cost", remedy="check the file")
        graph.add_node(str(node.id), name=node.name)
    costs: dict[int, float] = {}
    for edge in file.edges:
        for end in (edge.sourceId, edge.destId):
            if str(end) not in graph:
                raise InvalidModel(f"{name}: an edge names node {end}, which does not exist", remedy="check the file")
        if not isfinite(edge.cost):
            raise InvalidModel(f"{name}: an edge of node {edge.sourceId} has an infinite cost", remedy="check the file")
        costs[edge.sourceId] = max(edge.cost, costs.get(edge.sourceId, 0.0))
    for edge in file.edges:
        tensors = {f"output of {edge.sourceId}": round(costs[edge.sourceId] * _PER_UNIT)}
        graph.add_edge(str(edge.sourceId), str(edge.destId), tensors=tensors)
    if not nx.is_directed_acyclic_graph(graph):
        raise InvalidModel(f"{name} has a cycle", remedy="check the file")
    return graph
