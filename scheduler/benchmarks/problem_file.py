"""The JSON file format of placement problems: written by generators and by the search for adversarial problems.

It holds the tasks' times on each device, the bytes along each edge, and a latency and a bandwidth for each link, so
that it is the same problem on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from typing import Annotated, Literal

import msgspec
import networkx as nx

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.runtime.untrusted_files import MalformedFile, decode_json

from ..problem.platform import Platform
from ..problem.problem_tables import ProblemTables
from ..problem.rules import Objective, Rules
from ..problem.task_graph import TaskGraph

FORMAT: Literal["trisect-problem"] = "trisect-problem"
_MAX_DEVICES = 1024

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class ProblemFileDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device: its id, and for segments the fixed time of each call."""

    id: str
    kind: Kind
    overhead_s: _Seconds = 0.0


class ProblemFileTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task: its time on each device in the order of the devices, ``null`` where it cannot run."""

    name: str
    times_s: tuple[_Seconds | None, ...]


class ProblemFileEdge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data that one task passes to another."""

    source: str
    target: str
    size_bytes: _Bytes = 0


class ProblemFileLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cost of moving data from one device to another; without a bandwidth it is the latency alone."""

    source: str
    target: str
    latency_s: _Seconds = 0.0
    bandwidth_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ProblemFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete problem. Missing links take no time.

    Examples
    --------
    >>> file = ProblemFile(
    ...     devices=(ProblemFileDevice("cpu:a", "cpu"),),
    ...     tasks=(ProblemFileTask("x", (1.0,)), ProblemFileTask("y", (2.0,))),
    ...     edges=(ProblemFileEdge("x", "y", 8),),
    ... )
    >>> to_tables(file, "here").times_s["y"]
    {'cpu:a': 2.0}
    """

    devices: tuple[ProblemFileDevice, ...]
    tasks: tuple[ProblemFileTask, ...]
    edges: tuple[ProblemFileEdge, ...] = ()
    links: tuple[ProblemFileLink, ...] = ()
    objective: Objective = "latency"
    convention: Literal["segments", "tasks"] = "tasks"
    origin: str = ""
    """Which program generated it, and with which settings."""
    format: Literal["trisect-problem"] = FORMAT
    schema: Literal[1] = 1


def is_problem_file(text: str) -> bool:
    """Return whether a text declares this format, even if it is malformed."""
    return f'"{FORMAT}"' in text


def read_problem_file(text: str, name: str) -> ProblemFile:
    """Read one file.

    Raises
    ------
    InvalidModel
        When the text is malformed.
    """
    try:
        return decode_json(text, ProblemFile)
    except MalformedFile as error:
        raise InvalidModel(f"{name} is not a valid problem file: {error}", remedy="check the file") from None


def write_problem_file(file: ProblemFile) -> bytes:
    """Return the file's content: the same bytes for the same problem."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def to_tables(file: ProblemFile, name: str, objective: Objective | None = None) -> ProblemTables:
    """Return the problem that a file describes.

    Raises
    ------
    InvalidModel
        For contradictory entries.
    InvalidInput
        For another objective than latency under the convention of single tasks.
    """
    ids = [device.id for device in file.devices]
    if len(set(ids)) < len(ids) or len(ids) > _MAX_DEVICES:
        raise InvalidModel(
            f"{name} has two devices with the same id, or more than {_MAX_DEVICES}", remedy="check the file"
        )
    if file.convention == "tasks" and (objective or file.objective) != "latency":
        raise InvalidInput(
            f"{name} schedules single tasks, whose objective is latency", remedy="or make the convention segments"
        )
    if file.convention == "tasks" and any(device.overhead_s for device in file.devices):
        message = f"{name}: single tasks have no call overhead"
        raise InvalidModel(message, remedy="put the overhead into the times, or make the convention segments")
    graph = _graph(file, name)
    times: dict[str, dict[str, float]] = {}
    for task in file.tasks:
        if len(task.times_s) != len(ids) or not _finite(t for t in task.times_s if t is not None):
            raise InvalidModel(
                f"{name}: task {task.name} does not have one valid time per device", remedy="check the file"
            )
        times[task.name] = {d: inf if t is None else t for d, t in zip(ids, task.times_s, strict=True)}
    links: dict[tuple[str, str], LinkCost] = {}
    for link in file.links:
        if link.source not in ids or link.target not in ids or not _finite((link.latency_s,)):
            raise InvalidModel(f"{name}: the link {link.source} - {link.target} is invalid", remedy="check the file")
        links[link.source, link.target] = LinkCost(link.latency_s, link.bandwidth_bytes_per_s or inf)
    return ProblemTables(
        graph,
        tuple(Device(d.id, d.kind, d.id.partition(":")[2], "of a problem file", "simulated") for d in file.devices),
        times,
        Platform(links, call_overhead_s={d.id: d.overhead_s for d in file.devices}),
        objective or file.objective,
        Rules(convention=file.convention),
    )


def _graph(file: ProblemFile, name: str) -> TaskGraph:
    graph: TaskGraph = nx.DiGraph()
    graph.add_nodes_from(task.name for task in file.tasks)
    if len(graph) < len(file.tasks):
        raise InvalidModel(f"{name} has two tasks with the same name", remedy="check the file")
    for edge in file.edges:
        for end in (edge.source, edge.target):
            if end not in graph:
                raise InvalidModel(f"{name}: an edge names task {end}, which does not exist", remedy="check the file")
        # Data of one size that a task passes to several is one tensor, so that it is transferred to a device once.
        graph.add_edge(edge.source, edge.target, tensors={f"{edge.source}:{edge.size_bytes}": edge.size_bytes})
    return graph


def _finite(values: Iterable[float]) -> bool:
    return all(map(isfinite, values))
