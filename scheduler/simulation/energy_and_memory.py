"""Energy and memory of a schedule: the energy of one input, and the peak memory of each device.

Both are modelled. Energy is the power of a device times the time that it works; a transfer is work of the receiving
device; idle power is not counted. Memory is the weights that a device holds and the tensors alive at a moment, times
the measured factors of its engine, plus the measured constant of each segment; without measurements, weights and
tensors count as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trisect.runtime.plans.timeline import Event, PeakBasis, Schedule

from ..problem.problem import Part, Problem
from ..problem.task_graph import tensor_edges
from .part_times import part_time_s, placement_of


@dataclass
class _TensorUse:
    """A tensor with its producer and its readers."""

    producer: str
    size_bytes: int
    readers: list[str]


def energy_j(problem: Problem, parts: Sequence[Part]) -> float | None:
    """Return the joules of one input through all parts; None where the power of a device is not known.

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
    device_of = placement_of(parts)
    moved = {
        (source, tensor, device_of[target]): problem.transfer_time(size_bytes, device_of[source], device_of[target])
        for source, target, tensors in tensor_edges(problem.graph)
        for tensor, size_bytes in tensors.items()
    }
    busy_s: dict[str, float] = defaultdict(float)
    for part in parts:
        busy_s[part.device] += part_time_s(problem, part, device_of)
    for (_, _, device), time_s in moved.items():
        busy_s[device] += time_s
    return sum(problem.platform.power_w[device] * time_s for device, time_s in busy_s.items())


def peak_bytes(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> dict[str, int]:
    """Return the peak memory of each device in bytes.

    A tensor is alive on its producer's device until its last reader there has finished and its last copy has arrived,
    and on a target device from the start of the copy until its last reader there has finished. Inside a part tasks run
    in their order, and internal tensors are freed after their last reader. Inputs and outputs of the whole model belong
    to the caller. See `Platform.memory` for the factors.

    Parameters
    ----------
    schedule : Schedule
        Schedule of these parts, from `simulate`.

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
    part_of = {node: i for i, part in enumerate(parts) for node in part.nodes}
    made_in: list[list[_TensorUse]] = [[] for _ in parts]
    for tensor in tensors.values():
        made_in[part_of[tensor.producer]].append(tensor)
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
            made = runs[item, part_of[tensor.producer]]
            last_s: dict[str, float] = {}
            for reader in {part_of[reader] for reader in tensor.readers} - {part_of[tensor.producer]}:
                run = runs[item, reader]
                last_s[run.device] = max(run.end_s, last_s.get(run.device, 0.0))
            alive_s = last_s.pop(made.device, made.end_s)
            for device, until_s in last_s.items():
                copy = copies.get((item, name, device))
                begin_s, arrived_s = (copy.start_s, copy.end_s) if copy is not None else (made.end_s, made.end_s)
                changes[device] += [(begin_s, tensor.size_bytes), (until_s, -tensor.size_bytes)]
                alive_s = max(alive_s, arrived_s)
            if alive_s > made.end_s:
                changes[made.device] += [(made.end_s, tensor.size_bytes), (alive_s, -tensor.size_bytes)]
    fixed: dict[str, float] = dict.fromkeys(problem.device_ids, 0.0)
    for part in parts:
        fixed[part.device] += problem.memory_need(part.device).model_bytes
        fixed[part.device] += sum(problem.held_bytes(node, part.device) for node in part.nodes)
    return {
        device: round(fixed[device] + problem.memory_need(device).per_tensor * _highest(changes[device]))
        for device in problem.device_ids
    }


def with_energy_and_memory(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> Schedule:
    """Return the schedule with energy (where power is known), peak memory, and the basis of each device's memory."""
    peaks = peak_bytes(problem, parts, schedule)
    basis: dict[str, PeakBasis] = {
        device: "measured factors" if device in problem.platform.memory else "weights and tensors" for device in peaks
    }
    return replace(schedule, energy_j=energy_j(problem, parts), peak_bytes=peaks, peak_basis=basis)


def may_overflow(problem: Problem, items: int = 1) -> bool:
    """Return whether any placement could exceed a device's memory; if not, peaks need no check."""
    limits = [device.memory_bytes for device in problem.devices if device.memory_bytes is not None]
    if not limits:
        return False
    moving = sum(tensor.size_bytes for tensor in _tensors(problem).values())
    needs = [problem.memory_need(device) for device in problem.device_ids]
    worst = len(problem.graph) * max(need.model_bytes for need in needs)
    worst += sum(problem.rules.sizes_bytes.values()) * max(need.per_weight for need in needs)
    return worst + items * moving * max(need.per_tensor for need in needs) > min(limits)


def _tensors(problem: Problem) -> dict[tuple[str, str], _TensorUse]:
    uses: dict[tuple[str, str], _TensorUse] = {}
    for source, target, tensors in tensor_edges(problem.graph):
        for name, size_bytes in tensors.items():
            uses.setdefault((source, name), _TensorUse(source, size_bytes, [])).readers.append(target)
    return uses


def _inner_bytes(part: Part, tensors: Sequence[_TensorUse]) -> int:
    """Return the peak bytes of tensors made in a part while it runs."""
    position = {node: i for i, node in enumerate(part.nodes)}
    arriving = [0] * len(part.nodes)
    leaving = [0] * len(part.nodes)
    for tensor in tensors:
        arriving[position[tensor.producer]] += tensor.size_bytes
        if all(reader in position for reader in tensor.readers):
            leaving[max(position[reader] for reader in tensor.readers)] += tensor.size_bytes
    live = peak = 0
    for made, freed in zip(arriving, leaving, strict=True):
        live += made
        peak = max(peak, live)
        live -= freed
    return peak


def _highest(changes: list[tuple[float, int]]) -> int:
    """Return the maximum of a running sum; what ends at an instant is freed before what begins then."""
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak
