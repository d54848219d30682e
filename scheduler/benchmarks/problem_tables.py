"""A problem written down as plain tables: what generators make, and what a search for hard ones saves.

JSON with the tasks' times on each device, the bytes along each edge, and a latency and a bandwidth for each link; no
function is in it, so that it is the same problem on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from typing import Annotated, Literal

import msgspec
import networkx as nx

from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import InvalidInput, InvalidModel

from ..problem.problem import Objective, Problem, TaskGraph
from ..problem.rules import Rules

FORMAT: Literal["trisect-problem"] = "trisect-problem"
_MOST_DEVICES = 1024

_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class TableDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device: its id, and for segments the fixed time of each call of one on it."""

    id: str
    kind: Kind
    overhead_s: _Seconds = 0.0


class TableTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task: its time on each device in the order of the devices, ``null`` where it cannot run."""

    name: str
    times_s: tuple[_Seconds | None, ...]


class TableEdge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one task hands to another."""

    source: str
    target: str
    size_bytes: _Bytes = 0


class TableLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What moving data from one device to another takes; without a bandwidth the latency is all."""

    source: str
    target: str
    latency_s: _Seconds = 0.0
    bandwidth_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole problem. Links that are not there take no time.

    Examples
    --------
    >>> tables = Tables((TableDevice("cpu:a", "cpu"),), (TableTask("x", (1.0,)), TableTask("y", (2.0,))),
    ...                 (TableEdge("x", "y", 8),))
    >>> to_problem(tables, "here").time("y", "cpu:a")
    2.0
    """

    devices: tuple[TableDevice, ...]
    tasks: tuple[TableTask, ...]
    edges: tuple[TableEdge, ...] = ()
    links: tuple[TableLink, ...] = ()
    objective: Objective = "latency"
    convention: Literal["segments", "tasks"] = "tasks"
    origin: str = ""
    """Who made it, and how."""
    format: Literal["trisect-problem"] = FORMAT
    schema: Literal[1] = 1


def is_tables(text: str) -> bool:
    """Whether a text says that it is such a file, sound or damaged: nothing else has that word in it."""
    return f'"{FORMAT}"' in text


def read_tables(text: str, name: str) -> Tables:
    """Read one file.

    Raises
    ------
    InvalidModel
        When the text is no such file.
    """
    try:
        return msgspec.json.decode(text, type=Tables)
    except msgspec.MsgspecError as error:
        raise InvalidModel(f"{name} is no sound problem file: {error}", remedy="check the file") from None


def write_tables(tables: Tables) -> bytes:
    """The file's content: the same bytes for the same tables."""
    return msgspec.json.format(msgspec.json.encode(tables), indent=1)


def to_problem(tables: Tables, name: str, objective: Objective | None = None) -> Problem:
    """The problem that the tables describe.

    Raises
    ------
    InvalidModel
        Where they contradict one another.
    InvalidInput
        For another objective than latency where single tasks are what counts.
    UnsupportedOperator
        When a task runs on none of the devices.
    """
    ids = [device.id for device in tables.devices]
    if len(set(ids)) < len(ids) or len(ids) > _MOST_DEVICES:
        raise InvalidModel(f"{name} has two devices of one id, or too many", remedy="check the file")
    if tables.convention == "tasks" and (objective or tables.objective) != "latency":
        raise InvalidInput(f"{name} goes by single tasks, whose objective is latency", remedy="or make it segments")
    if tables.convention == "tasks" and any(device.overhead_s for device in tables.devices):
        message = f"{name}: devices of single tasks have no calls to pay for"
        raise InvalidModel(message, remedy="put the overhead into the times, or make the convention segments")
    graph = _graph(tables, name)
    times: dict[str, dict[str, float]] = {}
    for task in tables.tasks:
        if len(task.times_s) != len(ids) or not _finite(t for t in task.times_s if t is not None):
            raise InvalidModel(f"{name}: task {task.name} has not one time a device", remedy="check the file")
        times[task.name] = {d: inf if t is None else t for d, t in zip(ids, task.times_s, strict=True)}
    links = {(link.source, link.target): (link.latency_s, link.bandwidth_bytes_per_s) for link in tables.links}
    for link in tables.links:
        if link.source not in ids or link.target not in ids or not _finite((link.latency_s,)):
            raise InvalidModel(
                f"{name}: the link {link.source} - {link.target} makes no sense", remedy="check the file"
            )

    def transfer_time(size_bytes: int, src: str, dst: str) -> float:
        latency_s, bandwidth = links.get((src, dst), (0.0, None))
        return latency_s + size_bytes / bandwidth if bandwidth else latency_s

    return Problem.of(
        graph,
        [Device(d.id, d.kind, d.id.partition(":")[2], "of a problem file", "simulated") for d in tables.devices],
        times,
        transfer_time,
        overhead_s={d.id: d.overhead_s for d in tables.devices},
        objective=objective or tables.objective,
        rules=Rules(convention=tables.convention),
    )


def _graph(tables: Tables, name: str) -> TaskGraph:
    graph: TaskGraph = nx.DiGraph()
    graph.add_nodes_from(task.name for task in tables.tasks)
    if len(graph) < len(tables.tasks):
        raise InvalidModel(f"{name} has two tasks of one name", remedy="check the file")
    for edge in tables.edges:
        for end in (edge.source, edge.target):
            if end not in graph:
                raise InvalidModel(f"{name}: an edge names task {end}, which is not there", remedy="check the file")
        # What a task hands to several is one tensor where it is of one size, so that it travels to a device once.
        graph.add_edge(edge.source, edge.target, tensors={f"{edge.source}:{edge.size_bytes}": edge.size_bytes})
    return graph


def _finite(values: Iterable[float]) -> bool:
    return all(map(isfinite, values))
