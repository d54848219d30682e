"""What a timeline costs beyond time: the energy of one input, and how full each device's memory gets.

Both are modelled. Energy is what a device draws while it works, for as long as it works, a transfer being work of the
device that receives; what the idle machine draws is not counted. Memory is the weights that a device keeps and the
tensors that lie there at a moment, times what its engine was measured to take for each byte of them, and what it takes
for each segment; where nobody measured that, weights and tensors count as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trisect.runtime.plans.timeline import Event, PeakBasis, Schedule

from ..problem.problem import Part, Problem
from ..problem.task_graph import tensor_edges
from .part_times import part_time_s


@dataclass
class _Tensor:
    """Something one task makes and others read."""

    producer: str
    size_bytes: int
    readers: list[str]


def energy_j(problem: Problem, parts: Sequence[Part]) -> float | None:
    """Joules of one input through all parts; None where nobody knows what a device draws.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> platform = Platform(default_link=LinkCost(0.5), power_w={"cpu:a": 10.0, "gpu:b": 100.0})
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, platform)
    >>> energy_j(problem, [Part("cpu:a", ("x",)), Part("gpu:b", ("y",))])
    160.0
    """
    if any(part.device not in problem.platform.power_w for part in parts):
        return None
    home = {node: part.device for part in parts for node in part.nodes}
    moved = {
        (source, tensor, home[target]): problem.transfer_time(size_bytes, home[source], home[target])
        for source, target, tensors in tensor_edges(problem.graph)
        for tensor, size_bytes in tensors.items()
    }
    busy_s: dict[str, float] = defaultdict(float)
    for part in parts:
        busy_s[part.device] += part_time_s(problem, part)
    for (_, _, device), time_s in moved.items():
        busy_s[device] += time_s
    return sum(problem.platform.power_w[device] * time_s for device, time_s in busy_s.items())


def peak_bytes(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> dict[str, int]:
    """Bytes that each device holds at its fullest moment.

    A tensor lies where it was made until its last reader there is done and its last copy has arrived, and where it was
    copied to from the start of the copy until its last reader there is done. Inside a part tasks run in their order,
    and what only they read is freed behind the last of them. Inputs and outputs of the whole are the caller's. See
    `Platform.memory` for what is counted for each byte.

    Parameters
    ----------
    problem : Problem
    parts : sequence of Part
    schedule : Schedule
        Of these parts, as `trisect.scheduler.simulation.simulate` makes it.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> from trisect.scheduler.problem.rules import Rules
    >>> from trisect.scheduler.simulation.simulate import simulate
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> platform = Platform(default_link=LinkCost(0.5))
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, platform,
    ...                      rules=Rules(sizes_bytes={"x": 1000, "y": 30}))
    >>> parts = [Part("cpu:a", ("x",)), Part("gpu:b", ("y",))]
    >>> peak_bytes(problem, parts, simulate(problem, parts))
    {'cpu:a': 1100, 'gpu:b': 130}
    """
    tensors = _tensors(problem)
    home = {node: i for i, part in enumerate(parts) for node in part.nodes}
    made_in: list[list[_Tensor]] = [[] for _ in parts]
    for tensor in tensors.values():
        made_in[home[tensor.producer]].append(tensor)
    inner = [_inner_bytes(part, made) for part, made in zip(parts, made_in, strict=True)]
    changes: dict[str, list[tuple[float, int]]] = {device: [] for device in problem.device_ids}
    runs: dict[tuple[int, int], Event] = {}
    copies: dict[tuple[int, str, str], Event] = {}
    for event in schedule.events:
        if event.kind == "compute":
            runs[event.item, int(event.name.removeprefix("segment "))] = event
        else:
            copies[event.item, event.name, event.device] = event
    for (_, i), run in runs.items():
        changes[run.device] += [(run.start_s, inner[i]), (run.end_s, -inner[i])]
    for item in sorted({item for item, _ in runs}):
        for (_, name), tensor in tensors.items():
            made = runs[item, home[tensor.producer]]
            last_s: dict[str, float] = {}
            for reader in {home[reader] for reader in tensor.readers} - {home[tensor.producer]}:
                run = runs[item, reader]
                last_s[run.device] = max(run.end_s, last_s.get(run.device, 0.0))
            kept_s = last_s.pop(made.device, made.end_s)
            for device, until_s in last_s.items():
                copy = copies.get((item, name, device))
                begin_s, arrived_s = (copy.start_s, copy.end_s) if copy is not None else (made.end_s, made.end_s)
                changes[device] += [(begin_s, tensor.size_bytes), (until_s, -tensor.size_bytes)]
                kept_s = max(kept_s, arrived_s)
            if kept_s > made.end_s:
                changes[made.device] += [(made.end_s, tensor.size_bytes), (kept_s, -tensor.size_bytes)]
    fixed: dict[str, float] = dict.fromkeys(problem.device_ids, 0.0)
    for part in parts:
        fixed[part.device] += problem.memory_need(part.device).model_bytes
        fixed[part.device] += sum(problem.held_bytes(node, part.device) for node in part.nodes)
    return {
        device: round(fixed[device] + problem.memory_need(device).per_tensor * _highest(changes[device]))
        for device in problem.device_ids
    }


def with_energy_and_memory(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> Schedule:
    """The schedule, with energy (where power is known) and memory, and how each device's memory is known."""
    peaks = peak_bytes(problem, parts, schedule)
    basis: dict[str, PeakBasis] = {
        device: "measured factors" if device in problem.platform.memory else "weights and tensors" for device in peaks
    }
    return replace(schedule, energy_j=energy_j(problem, parts), peak_bytes=peaks, peak_basis=basis)


def may_overflow(problem: Problem, items: int = 1) -> bool:
    """Whether a device could ever be too full; where not, nobody has to look."""
    limits = [device.memory_bytes for device in problem.devices if device.memory_bytes is not None]
    if not limits:
        return False
    moving = sum(tensor.size_bytes for tensor in _tensors(problem).values())
    needs = [problem.memory_need(device) for device in problem.device_ids]
    most = len(problem.graph) * max(need.model_bytes for need in needs)
    most += sum(problem.rules.sizes_bytes.values()) * max(need.per_weight for need in needs)
    return most + items * moving * max(need.per_tensor for need in needs) > min(limits)


def _tensors(problem: Problem) -> dict[tuple[str, str], _Tensor]:
    found: dict[tuple[str, str], _Tensor] = {}
    for source, target, tensors in tensor_edges(problem.graph):
        for name, size_bytes in tensors.items():
            found.setdefault((source, name), _Tensor(source, size_bytes, [])).readers.append(target)
    return found


def _inner_bytes(part: Part, tensors: Sequence[_Tensor]) -> int:
    """The most that tensors made in a part take while it runs."""
    position = {node: i for i, node in enumerate(part.nodes)}
    arriving = [0] * len(part.nodes)
    leaving = [0] * len(part.nodes)
    for tensor in tensors:
        arriving[position[tensor.producer]] += tensor.size_bytes
        if all(reader in position for reader in tensor.readers):
            leaving[max(position[reader] for reader in tensor.readers)] += tensor.size_bytes
    live = most = 0
    for made, freed in zip(arriving, leaving, strict=True):
        live += made
        most = max(most, live)
        live -= freed
    return most


def _highest(changes: list[tuple[float, int]]) -> int:
    """The most of a running sum; what ends at an instant makes room for what begins then."""
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most
