"""What the page shows, as plain data: the ranking, timelines, the model's graph, its work beside the roofs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trisect import api
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.plans.timeline import Timeline

from ..comparing.comparison import Comparison, ComparisonResult
from .graph_layout import layered


@dataclass(frozen=True)
class Bar:
    """An event of a timeline."""

    name: str
    kind: str
    device: str
    start_s: float
    end_s: float
    size_bytes: int


@dataclass(frozen=True)
class Lane:
    """A result with its timelines, and where it puts each node of the graph."""

    name: str
    predicted: tuple[Bar, ...]
    measured: tuple[Bar, ...]
    placement: tuple[int, ...]
    """Per node of the graph, the number of its device; empty for a peer, which does not tell."""


@dataclass(frozen=True)
class Drawing:
    """The model's graph, laid out; what is known before anything runs is left out."""

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
class Work:
    """One op class of the model."""

    op_class: str
    nodes: int
    flops: float
    size_bytes: int

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.flops / self.size_bytes if self.size_bytes else 0.0


@dataclass(frozen=True)
class Dot:
    """One operator that was measured on a device."""

    case: str
    op_class: str
    intensity: float
    rate_flops: float


@dataclass(frozen=True)
class Roof:
    """A device's limits and what was measured on it."""

    device: str
    peak_flops: float | None
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Document:
    """The whole page."""

    comparison: Comparison
    lanes: tuple[Lane, ...]
    drawing: Drawing
    work: tuple[Work, ...]
    roofs: tuple[Roof, ...]
    read_bandwidth_bytes_per_s: float | None


def document(comparison: Comparison) -> Document:
    """Collect what the page shows of a comparison.

    Raises
    ------
    InvalidModel
        Where the model has gone since.
    InvalidProfile
        Where what was measured on this machine cannot be read.
    """
    graph = Graph.read(comparison.path, comparison.shapes)
    running = [name for name, constant in graph.digraph.nodes(data="constant") if not constant]
    profile = api.stored_profile()
    ids = [device.id for device in comparison.devices]
    return Document(
        comparison,
        tuple(_lane(result, running, ids) for result in comparison.results if result.latency_s is not None),
        _drawing(graph, running),
        _work(graph, running),
        tuple(_roofs(profile, ids)),
        profile.read_bandwidth_bytes_per_s,
    )


def _lane(result: ComparisonResult, nodes: Sequence[str], devices: Sequence[str]) -> Lane:
    where = result.placement
    numbers = tuple(devices.index(where[node]) for node in nodes) if where is not None else ()
    return Lane(result.name, _bars(result.predicted), _bars(result.trace), numbers)


def _bars(timeline: Timeline | None) -> tuple[Bar, ...]:
    events = [event for event in timeline.events if event.item == 0] if timeline is not None else []
    return tuple(Bar(e.name, e.kind, e.device, e.start_s, e.end_s, e.size_bytes) for e in events)


def _drawing(graph: Graph, nodes: Sequence[str]) -> Drawing:
    number = {name: i for i, name in enumerate(nodes)}
    edges = tuple((number[a], number[b]) for a, b in graph.digraph.edges if a in number and b in number)
    at = layered(len(nodes), edges)
    data = [graph.digraph.nodes[name] for name in nodes]
    return Drawing(
        names=tuple(nodes),
        op_types=tuple(str(d["op_type"]) for d in data),
        op_classes=tuple(d["op_class"].value for d in data),
        flops=tuple(float(d["flops"]) for d in data),
        sizes_bytes=tuple(int(d["bytes_read"] + d["bytes_written"]) for d in data),
        x=tuple(round(x, 2) for x, _ in at),
        y=tuple(round(y, 2) for _, y in at),
        edges=edges,
    )


def _work(graph: Graph, nodes: Sequence[str]) -> tuple[Work, ...]:
    by_class = defaultdict(list)
    for name in nodes:
        data = graph.digraph.nodes[name]
        by_class[data["op_class"].value].append((data["flops"], data["bytes_read"] + data["bytes_written"]))
    found = [
        Work(kind, len(all_), float(sum(f for f, _ in all_)), int(sum(b for _, b in all_)))
        for kind, all_ in by_class.items()
    ]
    return tuple(sorted(found, key=lambda work: -work.flops))


def _roofs(profile: Profile, ids: Sequence[str]) -> list[Roof]:
    found = []
    for device in (profile.devices[id_] for id_ in ids if id_ in profile.devices):
        dots = [
            Dot(point.case, point.op_class.value, point.flops / point.size_bytes, point.rate_flops)
            for point in device.points
            if point.flops > 0 and point.size_bytes > 0
        ]
        found.append(Roof(device.device, device.peak_flops, tuple(dots)))
    return found
