"""The placement problem: all that a placement strategy may see, and nothing of ONNX.

A task graph with the time of each task on each device, the cost of moving data between devices, and the constraints. It
comes from a model (`trisect.partitioner.problem.problem_builder`), from a benchmark file, or from plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, isnan
from pathlib import Path

from trisect.profiles.costmodel.memory_need import MemoryNeed
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, PowerUnknown, UnknownDevice, UnsupportedOperator

from ..benchmarks import read_benchmark
from .boundary_costs import BoundaryCost
from .platform import Platform
from .problem_tables import ProblemTables
from .rules import Objective, Rules
from .task_graph import TaskGraph, topological_order

_PLAIN = MemoryNeed()
Placement = Mapping[str, str]
"""Task -> device id."""


@dataclass(frozen=True)
class Part:
    """Tasks that run as one piece on one device: a segment, or a single task."""

    device: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Tasks, devices, costs, objective and constraints: plain data, built and checked by `Problem.of`."""

    graph: TaskGraph
    """One node per task; edges have ``tensors``: name -> bytes. A node may carry ``features`` (`OpFeatures`), for
    strategies that use the operator class."""
    devices: tuple[Device, ...]
    times_s: Mapping[str, tuple[float, ...]]
    """Per task, its time on each of `devices`; infinite where it cannot or must not run."""
    platform: Platform = field(default_factory=Platform)
    objective: Objective = "latency"
    rules: Rules = field(default_factory=Rules)
    boundary_costs: Mapping[str, BoundaryCost] = field(default_factory=dict)
    """Tensor -> its cost to the segments between which it crosses, also on one device; missing tensors: none.
    Strategies may search as if there were none, since a bound without it holds all the more."""
    known_parts_s: Mapping[Part, float] = field(default_factory=dict)
    """Seconds of one call, in a loop, of parts that were predicted as wholes; others are summed up from tasks."""
    why_not: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(Task, device id) -> why it cannot or must not run there, where that is known."""

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
        objective : {"throughput", "latency"}, optional
            Of a ``.json`` file; throughput when left out. A ``.stg`` file supports only latency.
        contiguous : bool
            For throughput: each device gets one convex piece. For latency, calls of accelerators always do.
        processors : int
            For ``.stg``: number of equal processors.

        Raises
        ------
        InvalidModel
            When the file is missing, malformed or too large.
        InvalidInput
            For an unsupported objective or number of processors.
        """
        return Problem.from_tables(read_benchmark(Path(path), objective, contiguous, processors))

    @classmethod
    def from_tables(cls, tables: ProblemTables) -> Problem:
        """Build the problem that plain tables describe; errors as for `Problem.of`."""
        return cls.of(
            tables.graph,
            tables.devices,
            tables.times_s,
            tables.platform,
            objective=tables.objective,
            rules=tables.rules,
        )

    @classmethod
    def of(
        cls,
        graph: TaskGraph,
        devices: Iterable[Device],
        time_s: Callable[[str, str], float] | Mapping[str, Mapping[str, float]],
        platform: Platform | None = None,
        *,
        objective: Objective = "latency",
        rules: Rules | None = None,
        boundary_costs: Mapping[str, BoundaryCost] | None = None,
        why_not: Mapping[tuple[str, str], str] | None = None,
    ) -> Problem:
        """Build a problem and check it.

        Parameters
        ----------
        graph : networkx.DiGraph
            Acyclic; edges with ``tensors`` (without: nothing to transfer).
        time_s : callable or mapping
            ``time_s(task, device_id)`` or ``time_s[task][device_id]``, in seconds; infinite (or missing) = cannot run.
        platform : Platform, optional
            Links, call overhead, power and memory; when left out, all of them cost nothing.
        objective : {"latency", "throughput", "energy", "memory"}
            ``energy`` needs the power of all devices.
        rules : Rules, optional
            How placements are evaluated; those of the runtime when left out.
        boundary_costs, why_not : mapping, optional
            See `Problem`.

        Raises
        ------
        UnsupportedOperator
            When a task runs on none of the devices.
        InfeasibleProblem
            When there is no device, or the graph is cyclic, undirected or a multigraph; for the latency of a backward
            pass, whose tasks `Rules` do not order.
        PowerUnknown
            For the objective ``energy``, when the power of a device is not known.

        Examples
        --------
        >>> import networkx as nx
        >>> from trisect.profiles.costmodel.link_cost import LinkCost
        >>> cpu, gpu = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")
        >>> graph = nx.DiGraph()
        >>> graph.add_edge("x", "y", tensors={"t": 100})
        >>> times = {"x": {"cpu:a": 1.0, "gpu:b": 0.5}, "y": {"cpu:a": 2.0}}
        >>> problem = Problem.of(graph, [cpu, gpu], times, Platform(default_link=LinkCost(bytes_per_s=1e3)))
        >>> problem.time("y", "gpu:b"), problem.transfer_time(100, "cpu:a", "gpu:b"), problem.allowed("y")
        (inf, 0.1, ['cpu:a'])
        """
        devices = tuple(devices)
        ids = [d.id for d in devices]
        if not devices:
            raise InfeasibleProblem("expected at least one device, found none", remedy="add a device")
        if not graph.is_directed() or graph.is_multigraph():
            raise InfeasibleProblem(
                f"expected the tasks as a networkx.DiGraph, got a {type(graph).__name__}",
                remedy="give each dependency as one directed edge, with all its tensors",
            )
        if objective == "latency" and rules is not None and rules.backward:
            raise InfeasibleProblem(
                f"the latency of a training graph is not defined: found {len(rules.backward)} tasks of a backward pass",
                remedy="choose the objective throughput, or leave the backward pass out",
            )
        if len(topological_order(graph)) < len(graph):
            raise InfeasibleProblem("expected an acyclic task graph, found a cycle", remedy="check the edges")
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
            times[node] = tuple(inf if isnan(t) or t < 0 else t for t in row)
            if min(times[node]) == inf:
                raise UnsupportedOperator(
                    f"{_describe(graph, node)} runs on none of {', '.join(ids)}", remedy="add a device that can"
                )
        problem = cls(
            graph, devices, times, platform or Platform(), rules=rules or Rules(), boundary_costs=boundary_costs or {},
            why_not=why_not or {},
        )  # fmt: skip
        return problem.with_objective(objective)

    def with_objective(self, objective: Objective) -> Problem:
        """Return the same problem with another objective.

        Raises
        ------
        PowerUnknown
            For the objective ``energy``, when the power of a device is not known.
        """
        unknown = [device for device in self.device_ids if device not in self.platform.power_w]
        if objective == "energy" and unknown:
            known = ", ".join(device for device in self.device_ids if device in self.platform.power_w)
            raise PowerUnknown(
                f"the power of {', '.join(unknown)} is not measured, and not published",
                remedy=f"choose another objective, or only devices whose power is known ({known or 'none of these'})",
            )
        return replace(self, objective=objective)

    @property
    def device_ids(self) -> list[str]:
        """Ids of the devices, in their order."""
        return [d.id for d in self.devices]

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {device.id: i for i, device in enumerate(self.devices)}

    def column(self, device: str | Device) -> int:
        """Return the position of a device (or its id) among the problem's."""
        device_id = device if isinstance(device, str) else device.id
        column = self._columns.get(device_id)
        if column is None:
            known = ", ".join(self.device_ids)
            raise UnknownDevice(f"no device {device_id!r} in this problem", remedy=f"there are: {known}")
        return column

    def time(self, node: str, device: str | Device) -> float:
        """Return the seconds that a task takes on a device (or its id); infinite where it cannot run."""
        return self.times_s[node][self.column(device)]

    def transfer_time(self, size_bytes: int, src: str | Device, dst: str | Device) -> float:
        """Return the seconds to move that many bytes from one device to another; 0 on the same one."""
        source = src if isinstance(src, str) else src.id
        target = dst if isinstance(dst, str) else dst.id
        return 0.0 if source == target else self.platform.link(source, target).time_s(size_bytes)

    def crossing_time(self, tensor: str, size_bytes: int, src: str | Device, dst: str | Device) -> float:
        """Return the seconds that a tensor costs between two parts, also of one device: boundaries and transfer.

        An image is priced as if nothing else read it; another reader may prevent the layout NHWC.
        """
        boundary = self.boundary_costs.get(tensor)
        moving_s = self.transfer_time(size_bytes, src, dst)
        if boundary is None:
            return moving_s
        source, target = self.column(src), self.column(dst)
        sides = boundary.between((source, target))
        return sides.leave_s[source] + moving_s + sides.enter_s[target]

    def overhead(self, device: str | Device) -> float:
        """Return the seconds that each call of a part costs on a device."""
        return self.platform.call_overhead_s.get(device if isinstance(device, str) else device.id, 0.0)

    def memory_need(self, device: str | Device) -> MemoryNeed:
        """Return how much of a device's memory weights, tensors and segments occupy."""
        return self.platform.memory.get(device if isinstance(device, str) else device.id, _PLAIN)

    def held_bytes(self, node: str, device: str | Device) -> float:
        """Return the bytes of a device's memory that a task's weights occupy as long as it is loaded."""
        return self.rules.sizes_bytes.get(node, 0.0) * self.memory_need(device).per_weight

    def allowed(self, node: str) -> list[str]:
        """Return the ids of the devices that can run a task."""
        return [d.id for d, t in zip(self.devices, self.times_s[node], strict=True) if t < inf]


def crossing_time_s(problem: Problem, placement: Placement, tasks: Collection[str], device: str) -> float:
    """Return the seconds of all crossings to and from some tasks if they were on that device and all others stayed.

    A tensor that goes to one device twice is counted once. Neighbours on one device count as one part.
    """
    graph = problem.graph
    moved: dict[tuple[str, str], float] = {}
    for task in tasks:
        for other in graph.predecessors(task):
            if other not in tasks and placement[other] != device:
                for tensor, size_bytes in graph.get_edge_data(other, task)["tensors"].items():
                    moved[tensor, device] = problem.crossing_time(tensor, size_bytes, placement[other], device)
        for other in graph.successors(task):
            if other not in tasks and placement[other] != device:
                target = placement[other]
                for tensor, size_bytes in graph.get_edge_data(task, other)["tensors"].items():
                    moved[tensor, target] = problem.crossing_time(tensor, size_bytes, device, target)
    return sum(moved.values(), 0.0)


def _describe(graph: TaskGraph, node: str) -> str:
    features = graph.nodes[node].get("features")
    return f"node {node!r} ({features.op_type})" if features is not None else f"node {node!r}"
