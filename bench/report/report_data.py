"""The data of the report page: timelines of the results, the model's graph, its op classes, and device rooflines."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trisect import device_data
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.plans.timeline import Event, Timeline

from ..comparing.comparison import Comparison, ComparisonResult
from .graph_layout import layered


@dataclass(frozen=True)
class ResultTimelines:
    """The timelines of a result, and its placement of the graph's nodes."""

    name: str
    predicted: tuple[Event, ...]
    measured: tuple[Event, ...]
    placement: tuple[int, ...]
    """For each node of the graph, the index of its device; empty for a peer, whose placement is unknown."""


@dataclass(frozen=True)
class GraphDrawing:
    """The model's graph with coordinates, without constant nodes."""

    names: tuple[str, ...]
    op_types: tuple[str, ...]
    op_classes: tuple[str, ...]
    flops: tuple[float, ...]
    sizes_bytes: tuple[int, ...]
    """Read and written."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    edges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class OpClassTotals:
    """Totals of one op class over the model."""

    op_class: str
    nodes: int
    flops: float
    size_bytes: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOP per byte."""
        return self.flops / self.size_bytes if self.size_bytes else 0.0


@dataclass(frozen=True)
class OperatorPoint:
    """One operator measured on a device."""

    case: str
    op_class: str
    intensity: float
    rate_flops: float


@dataclass(frozen=True)
class DeviceRoofline:
    """A device's peak and its measured operators."""

    device: str
    peak_flops: float | None
    points: tuple[OperatorPoint, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows."""

    comparison: Comparison
    timelines: tuple[ResultTimelines, ...]
    drawing: GraphDrawing
    op_classes: tuple[OpClassTotals, ...]
    rooflines: tuple[DeviceRoofline, ...]
    read_bandwidth_bytes_per_s: float | None


def report_data(comparison: Comparison) -> ReportData:
    """Collect the data of a comparison's report.

    Raises
    ------
    InvalidModel
        Where the model has been deleted since.
    InvalidProfile
        Where this machine's profile cannot be read.
    """
    graph = Graph.read(comparison.path, comparison.shapes)
    nodes = [name for name, constant in graph.digraph.nodes(data="constant") if not constant]
    profile = device_data.stored_profile()
    ids = [device.id for device in comparison.devices]
    return ReportData(
        replace(comparison, path=os.fsencode(comparison.path).decode(errors="replace")),
        tuple(_timelines(result, nodes, ids) for result in comparison.results if result.latency_s is not None),
        _drawing(graph, nodes),
        _op_classes(graph, nodes),
        tuple(_rooflines(profile, ids)),
        profile.read_bandwidth_bytes_per_s,
    )


def _timelines(result: ComparisonResult, nodes: Sequence[str], devices: Sequence[str]) -> ResultTimelines:
    placement = result.placement
    indices = tuple(devices.index(placement[node]) for node in nodes) if placement is not None else ()
    return ResultTimelines(result.name, _first_item(result.predicted), _first_item(result.trace), indices)


def _first_item(timeline: Timeline | None) -> tuple[Event, ...]:
    return tuple(event for event in timeline.events if event.item == 0) if timeline is not None else ()


def _drawing(graph: Graph, nodes: Sequence[str]) -> GraphDrawing:
    index = {name: i for i, name in enumerate(nodes)}
    edges = tuple((index[a], index[b]) for a, b in graph.digraph.edges if a in index and b in index)
    coordinates = layered(len(nodes), edges)
    data = [graph.digraph.nodes[name] for name in nodes]
    return GraphDrawing(
        names=tuple(nodes),
        op_types=tuple(str(d["op_type"]) for d in data),
        op_classes=tuple(d["op_class"].value for d in data),
        flops=tuple(float(d["flops"]) for d in data),
        sizes_bytes=tuple(int(d["bytes_read"] + d["bytes_written"]) for d in data),
        x=tuple(round(x, 2) for x, _ in coordinates),
        y=tuple(round(y, 2) for _, y in coordinates),
        edges=edges,
    )


def _op_classes(graph: Graph, nodes: Sequence[str]) -> tuple[OpClassTotals, ...]:
    by_class = defaultdict(list)
    for name in nodes:
        data = graph.digraph.nodes[name]
        by_class[data["op_class"].value].append((data["flops"], data["bytes_read"] + data["bytes_written"]))
    totals = [
        OpClassTotals(kind, len(values), float(sum(f for f, _ in values)), int(sum(b for _, b in values)))
        for kind, values in by_class.items()
    ]
    return tuple(sorted(totals, key=lambda total: -total.flops))


def _rooflines(profile: Profile, ids: Sequence[str]) -> list[DeviceRoofline]:
    rooflines = []
    for device in (profile.devices[id_] for id_ in ids if id_ in profile.devices):
        points = [
            OperatorPoint(point.case, point.op_class.value, point.flops / point.size_bytes, point.rate_flops)
            for point in device.points
            if point.flops > 0 and point.size_bytes > 0
        ]
        rooflines.append(DeviceRoofline(device.device, device.peak_flops, tuple(points)))
    return rooflines
