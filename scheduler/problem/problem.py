"""The Problem: all that a placement strategy may see, and nothing of ONNX.

A task graph with what each task takes on each device, what moving data between devices takes, and what is allowed. It
comes from a model (`trisect.partitioner.problem.problem_builder`), from a benchmark file, or from a
test's own dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import networkx as nx

from trisect.profiles.costmodel.call_costs import Wakings
from trisect.profiles.costmodel.op_features import MemoryNeed
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, PowerUnknown, UnknownDevice, UnsupportedOperator

from .boundary_costs import Border
from .core_sharing import Sharing
from .rules import Rules
from .topological_order import topological_order

Objective = Literal["latency", "throughput", "energy", "memory"]
"""What to make small: seconds of one input, seconds between two inputs of a stream, joules of one input, bytes that the
fullest device holds at its worst moment."""
if TYPE_CHECKING:
    TaskGraph = nx.DiGraph[str]
else:  # networkx itself has no subscripts
    TaskGraph = nx.DiGraph

_AS_THEY_ARE = MemoryNeed()
Placement = Mapping[str, str]
"""Task -> device id."""


@dataclass(frozen=True)
class Part:
    """Tasks that run as one piece on one device: a segment, or a single task."""

    device: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Tasks, devices, costs, and the objective.

    Make one with `Problem.of`, which checks it.
    """

    graph: TaskGraph
    """One node per task; edges have ``tensors``: name -> bytes. A node may carry ``features`` (`OpFeatures`), for
    strategies that go by the kind of work."""
    devices: tuple[Device, ...]
    times_s: Mapping[str, tuple[float, ...]]
    """Per task, its time on each of `devices`; infinite where it cannot or must not run."""
    transfer_time_s: Callable[[int, str, str], float]
    overhead_s: Mapping[str, float] = field(default_factory=dict)
    """Per device id, the fixed time of calling a part once."""
    objective: Objective = "latency"
    rules: Rules = field(default_factory=Rules)
    power_w: Mapping[str, float] = field(default_factory=dict)
    """Per device id, what it draws while it works; those left out are not known."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Device id -> what it computes on, where several devices compute on the same (engines on one processor's cores):
    these run one at a time. Only a timeline knows of it; loads and bounds do not."""
    memory: Mapping[str, MemoryNeed] = field(default_factory=dict)
    """Per device id, what segments were measured to take of its memory; of those left out only weights and tensors
    count, as they are."""
    sharing: Sharing = field(default_factory=Sharing)
    """How much devices slow each other in a stream; nothing is said of those left out. Strategies may search as if
    there were none of it: a bound without it holds all the more."""
    borders: Mapping[str, Border] = field(default_factory=dict)
    """Tensor -> what it costs the parts that it crosses between, also on one device; nothing of those left out. As of
    `sharing`, strategies may search as if there were none."""
    wakings: Wakings | None = None
    """What calls of parts take longer behind others on the same cores; None where nobody measured that."""
    why_not: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Task and device id -> why it cannot or must not run there, where that is known."""

    @staticmethod
    def read(
        path: str | Path,
        objective: Objective | None = None,
        contiguous: bool = False,
        *,
        processors: int = 2,
    ) -> Problem:
        """Read a published benchmark: a device-placement graph (``.json``) or a standard task graph (``.stg``).

        Times and transfers keep the file's own unit of time. Tasks are named by their ids in the file.

        Parameters
        ----------
        path : str or Path
        objective : {"throughput", "latency"}, optional
            Of a ``.json`` file; throughput when left out. A ``.stg`` file only knows latency.
        contiguous : bool
            For throughput: each device gets one convex piece. Calls of accelerators, for latency, always do.
        processors : int
            For ``.stg``: how many there are, all equal.

        Raises
        ------
        InvalidModel
            When the file is missing, damaged or too large.
        InvalidInput
            For an objective or a number of processors that makes no sense.
        """
        from ..benchmarks import read_problem

        return read_problem(Path(path), objective, contiguous, processors)

    @classmethod
    def of(
        cls,
        graph: TaskGraph,
        devices: Iterable[Device],
        time_s: Callable[[str, str], float] | Mapping[str, Mapping[str, float]],
        transfer_time_s: Callable[[int, str, str], float],
        *,
        overhead_s: Mapping[str, float] | None = None,
        objective: Objective = "latency",
        forced: Mapping[str, str] | None = None,
        forbidden: Mapping[str, Iterable[str]] | None = None,
        rules: Rules | None = None,
        power_w: Mapping[str, float] | None = None,
    ) -> Problem:
        """Make a problem from costs given as a function or as tables.

        Parameters
        ----------
        graph : networkx.DiGraph
            Acyclic; edges with ``tensors`` (without: nothing to transfer).
        devices : iterable of Device
        time_s : callable or mapping
            ``time_s(task, device_id)`` or ``time_s[task][device_id]``, in seconds; infinite (or absent) = cannot.
        transfer_time_s : callable
            ``transfer_time_s(size_bytes, src_id, dst_id)``; not asked for the same device.
        forced : mapping, optional
            Task -> the device that it must run on.
        forbidden : mapping, optional
            Task -> devices that it must not run on.
        rules : Rules, optional
            How placements are judged; those of the runtime when left out.
        power_w : mapping of str to float, optional
            Device id -> watts while it works, where known; the objective ``energy`` needs all.

        Raises
        ------
        UnsupportedOperator
            When a task runs on none of the devices.
        InfeasibleProblem
            When the constraints leave a task no device, name an unknown task, or the graph is cyclic.
        UnknownDevice
            When a constraint names a device that is not among `devices`.
        PowerUnknown
            For the objective ``energy``, when nobody knows what a device draws.

        Examples
        --------
        >>> cpu, gpu = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")
        >>> graph = nx.DiGraph()
        >>> graph.add_edge("x", "y", tensors={"t": 100})
        >>> times = {"x": {"cpu:a": 1.0, "gpu:b": 0.5}, "y": {"cpu:a": 2.0}}
        >>> problem = Problem.of(graph, [cpu, gpu], times, lambda size_bytes, src, dst: size_bytes / 1e3)
        >>> problem.time("y", "gpu:b"), problem.transfer_time(100, "cpu:a", "gpu:b"), problem.allowed("y")
        (inf, 0.1, ['cpu:a'])
        """
        devices = tuple(devices)
        ids = [d.id for d in devices]
        must = dict(forced or {})
        must_not = {node: set(named) for node, named in (forbidden or {}).items()}
        for node, named in [*((n, {d}) for n, d in must.items()), *must_not.items()]:
            if node not in graph:
                raise InfeasibleProblem(
                    f"a constraint names {node!r}, which is not in the graph", remedy="check its name"
                )
            for device in named - set(ids):
                raise UnknownDevice(f"a constraint puts {node!r} on {device!r}", remedy=f"there are: {', '.join(ids)}")
        if not devices:
            raise InfeasibleProblem("no device to place work on", remedy="name at least one")
        if len(topological_order(graph)) < len(graph):
            raise InfeasibleProblem("the task graph has a cycle", remedy="a model's graph must be acyclic")
        if not all("tensors" in data for _, _, data in graph.edges(data=True)):
            graph = graph.copy()
            for _, _, data in graph.edges(data=True):
                data.setdefault("tensors", {})
        times: dict[str, tuple[float, ...]] = {}
        for node in graph:
            if isinstance(time_s, Mapping):
                row = [float(time_s.get(node, {}).get(d, inf)) for d in ids]
            else:
                row = [float(time_s(node, d)) for d in ids]
            if not min(row) >= 0 or any(map(isnan, row)):
                row = [inf if isnan(t) or t < 0 else t for t in row]
            if min(row) == inf:
                raise UnsupportedOperator(
                    f"{_describe(graph, node)} runs on none of {', '.join(ids)}", remedy="add a device that can"
                )
            if node in must or node in must_not:
                row = [
                    t if d not in must_not.get(node, ()) and must.get(node, d) == d else inf
                    for t, d in zip(row, ids, strict=True)
                ]
            if min(row) == inf:
                raise InfeasibleProblem(
                    f"the constraints leave {_describe(graph, node)} no device that can run it", remedy="loosen them"
                )
            times[node] = tuple(row)
        known_w = {device: watts for device, watts in (power_w or {}).items() if device in ids}
        unknown = [device for device in ids if device not in known_w]
        if objective == "energy" and unknown:
            raise PowerUnknown(
                f"the power of {', '.join(unknown)} is not measured, and not published",
                remedy="choose another objective, or only devices whose power is known "
                f"({', '.join(known_w) or 'none of these'})",
            )
        return cls(graph, devices, times, transfer_time_s, dict(overhead_s or {}), objective, rules or Rules(), known_w)

    @property
    def device_ids(self) -> list[str]:
        return [d.id for d in self.devices]

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {device.id: i for i, device in enumerate(self.devices)}

    def column(self, device: str | Device) -> int:
        """Position of a device (or its id) among the problem's."""
        wanted = device if isinstance(device, str) else device.id
        column = self._columns.get(wanted)
        if column is None:
            there = ", ".join(self.device_ids)
            raise UnknownDevice(f"no device {wanted!r} in this problem", remedy=f"there are: {there}")
        return column

    def time(self, node: str, device: str | Device) -> float:
        """Seconds that a task takes on a device (or its id); infinite where it cannot run."""
        return self.times_s[node][self.column(device)]

    def transfer_time(self, size_bytes: int, src: str | Device, dst: str | Device) -> float:
        """Seconds to get that many bytes from one device to another; 0 on the same one."""
        source = src if isinstance(src, str) else src.id
        target = dst if isinstance(dst, str) else dst.id
        return 0.0 if source == target else self.transfer_time_s(size_bytes, source, target)

    def crossing_time(self, tensor: str, size_bytes: int, src: str | Device, dst: str | Device) -> float:
        """Seconds of a tensor's way from a part on one device to one on another: both borders and the transfer."""
        border = self.borders.get(tensor)
        moving_s = self.transfer_time(size_bytes, src, dst)
        if border is None:
            return moving_s
        source, target = self.column(src), self.column(dst)
        return moving_s if source == target else border.leave_s[source] + moving_s + border.enter_s[target]

    def overhead(self, device: str | Device) -> float:
        """Seconds that each call of a part costs on a device."""
        return self.overhead_s.get(device if isinstance(device, str) else device.id, 0.0)

    def memory_need(self, device: str | Device) -> MemoryNeed:
        """What weights, tensors and segments take of a device's memory."""
        return self.memory.get(device if isinstance(device, str) else device.id, _AS_THEY_ARE)

    def held_bytes(self, node: str, device: str | Device) -> float:
        """Bytes of a device's memory that a task's weights take as long as it is loaded."""
        return self.rules.sizes_bytes.get(node, 0.0) * self.memory_need(device).per_weight

    def allowed(self, node: str) -> list[str]:
        """Devices that a task can run on."""
        return [d.id for d, t in zip(self.devices, self.times_s[node], strict=True) if t < inf]


def tensor_edges(graph: TaskGraph) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """Edges of a task graph with what flows along them: source, target, tensor name -> bytes."""
    for source, target, data in graph.edges(data=True):
        yield source, target, data["tensors"]


def crossing_time_s(problem: Problem, placement: Placement, tasks: Collection[str], device: str) -> float:
    """Seconds of all crossings to and from some tasks, if they were on that device and all others stayed.

    A tensor that goes to one device twice is paid once.
    """
    graph = problem.graph
    moved: dict[tuple[str, str], float] = {}
    for task in tasks:
        for other in graph.predecessors(task):
            if other not in tasks:
                for tensor, size_bytes in graph.get_edge_data(other, task)["tensors"].items():
                    moved[tensor, device] = problem.crossing_time(tensor, size_bytes, placement[other], device)
        for other in graph.successors(task):
            if other not in tasks:
                there = placement[other]
                for tensor, size_bytes in graph.get_edge_data(task, other)["tensors"].items():
                    moved[tensor, there] = problem.crossing_time(tensor, size_bytes, device, there)
    return sum(moved.values())


def _describe(graph: TaskGraph, node: str) -> str:
    features = graph.nodes[node].get("features")
    return f"node {node!r} ({features.op_type})" if features is not None else f"node {node!r}"
