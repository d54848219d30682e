"""The validator: every violation of a placement, a cut or a schedule.

Tests, benchmarks and the planner use it. It shares no code with the strategies and the simulator, so that it finds
their faults.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Literal

import networkx as nx

from trisect.runtime.plans.timeline import Schedule

from ..problem.problem import Part, Placement, Problem
from ..problem.task_graph import tensor_edges

Kind = Literal[
    "unplaced",
    "unknown",
    "unsupported",
    "memory",
    "apart",
    "segments",
    "contiguous",
    "uncovered",
    "mixed",
    "cycle",
    "missing",
    "precedence",
    "overlap",
    "duration",
]

_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Violation:
    """One violated rule: its kind, where, and a message."""

    kind: Kind
    where: str
    message: str


def validate_placement(problem: Problem, placement: Placement) -> list[Violation]:
    """Return the violations of a placement: each task needs one existing device that can and may run it.

    Examples
    --------
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph()
    >>> graph.add_node("x")
    >>> device, times = Device("cpu:a", "cpu", "a", ""), {"x": {"cpu:a": 1.0}}
    >>> problem = Problem.of(graph, [device], times)
    >>> [v.kind for v in validate_placement(problem, {"y": "cpu:a"})]
    ['unplaced', 'unknown']
    """
    violations = []
    ids = set(problem.device_ids)
    for node in problem.graph:
        device = placement.get(node)
        if device is None:
            violations.append(Violation("unplaced", node, f"{node} has no device"))
        elif device not in ids:
            violations.append(Violation("unknown", node, f"{node} is on {device}, which is not in the problem"))
        elif problem.time(node, device) == inf:
            violations.append(Violation("unsupported", node, f"{node} cannot or must not run on {device}"))
    violations.extend(
        Violation("unknown", n, f"{n} is placed but not in the graph") for n in placement if n not in problem.graph
    )
    return violations


def validate_parts(problem: Problem, placement: Placement, parts: Sequence[Part]) -> list[Violation]:
    """Return the violations of a cut: each task in one part, on its device; no cycle of parts (so each is convex)."""
    violations = []
    parts_of: dict[str, list[int]] = {node: [] for node in problem.graph}
    for i, part in enumerate(parts):
        for node in part.nodes:
            parts_of.setdefault(node, []).append(i)
            if placement.get(node) != part.device:
                violations.append(
                    Violation(
                        "mixed", node, f"{node} is placed on {placement.get(node)} but cut into a part of {part.device}"
                    )
                )
    violations.extend(
        Violation("uncovered", node, f"{node} is in {len(where)} parts")
        for node, where in parts_of.items()
        if len(where) != 1
    )
    quotient: nx.DiGraph[int] = nx.DiGraph()
    quotient.add_nodes_from(range(len(parts)))
    for source, target in problem.graph.edges:
        quotient.add_edges_from((i, j) for i in parts_of[source] for j in parts_of[target] if i != j)
    if not nx.is_directed_acyclic_graph(quotient):
        cycle = [i for i, _ in nx.find_cycle(quotient)]
        violations.append(Violation("cycle", f"part {cycle[0]}", f"parts {cycle} wait for each other"))
    return violations


def validate_rules(
    problem: Problem, placement: Placement, parts: Sequence[Part], peaks_bytes: Mapping[str, int] | None = None
) -> list[Violation]:
    """Return the violations of rules: colocated groups, the number of parts, contiguity, memory.

    Parameters
    ----------
    parts : sequence of Part
        The cut of the placement.
    peaks_bytes : mapping of str to int, optional
        Device id -> peak memory; only weights are counted when left out.
    """
    violations = []
    rules = problem.rules
    for together in rules.colocated:
        if len({placement[task] for task in together}) > 1:
            text = f"{together[0]} and tasks colocated with it are on different devices"
            violations.append(Violation("apart", together[0], text))
    if rules.max_segments is not None and len(parts) > rules.max_segments:
        violations.append(
            Violation("segments", "", f"expected at most {rules.max_segments} segments, found {len(parts)}")
        )
    if rules.contiguous:
        violations += [
            Violation("contiguous", device, f"expected one segment on {device}, found {count}")
            for device, count in Counter(part.device for part in parts).items()
            if count > 1
        ]
    held: dict[str, float] = defaultdict(float)
    for task, device_id in placement.items():
        held[device_id] += problem.held_bytes(task, device_id)
    for device in problem.devices:
        needed = max(held[device.id], (peaks_bytes or {}).get(device.id, 0))
        if device.memory_bytes is not None and needed > device.memory_bytes:
            text = f"{device.id} needs {needed:.0f} bytes and has {device.memory_bytes}"
            violations.append(Violation("memory", device.id, text))
    return violations


def validate_schedule(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> list[Violation]:
    """Return the violations of a schedule: each part once per item, long enough, no overlaps, inputs arrived."""
    violations = []
    runs = {}
    for event in schedule.events:
        if event.kind == "compute":
            if (event.item, event.name) in runs:
                violations.append(Violation("overlap", event.name, f"{event.name} runs twice for item {event.item}"))
            runs[event.item, event.name] = event
    items = sorted({event.item for event in schedule.events}) or [0]
    part_of = {node: i for i, part in enumerate(parts) for node in part.nodes}
    boundaries_s = _boundaries_s(problem, parts, part_of)
    for item in items:
        for i, part in enumerate(parts):
            run = runs.get((item, f"segment {i}"))
            if run is None or run.device != part.device:
                violations.append(
                    Violation("missing", f"segment {i}", f"segment {i} of item {item} does not run on {part.device}")
                )
                continue
            needed_s = problem.overhead(part.device) + sum(problem.time(node, part.device) for node in part.nodes)
            needed_s += boundaries_s[i]
            if run.duration_s < needed_s - _ROUNDING_S:
                violations.append(
                    Violation("duration", run.name, f"{run.name} runs {run.duration_s} s but needs {needed_s} s")
                )
        for source, target, tensors in tensor_edges(problem.graph):
            made, used = (runs.get((item, f"segment {part_of[n]}")) for n in (source, target))
            if part_of[source] == part_of[target] or made is None or used is None:
                continue
            slowest_s = max(
                (problem.transfer_time(size, made.device, used.device) for size in tensors.values()), default=0.0
            )
            if used.start_s < made.end_s + slowest_s - _ROUNDING_S:
                violations.append(
                    Violation("precedence", target, f"{target} starts before the output of {source} has arrived")
                )
    for device in problem.device_ids:
        mine = sorted((e for e in runs.values() if e.device == device), key=lambda e: (e.start_s, e.end_s))
        for first, second in pairwise(mine):
            if second.start_s < first.end_s - _ROUNDING_S:
                violations.append(
                    Violation("overlap", device, f"{first.name} and {second.name} run on {device} at the same time")
                )
    return violations


def _boundaries_s(problem: Problem, parts: Sequence[Part], part_of: Mapping[str, int]) -> list[float]:
    """Return, per part, the boundary costs of tensors that enter or leave it, each once."""
    if not problem.boundary_costs:
        return [0.0] * len(parts)
    crossed = {
        (tensor, i, direction)
        for source, target, tensors in tensor_edges(problem.graph)
        for tensor in tensors
        if part_of[source] != part_of[target] and tensor in problem.boundary_costs
        for i, direction in ((part_of[source], "out"), (part_of[target], "in"))
    }
    used_by: dict[str, set[int]] = defaultdict(set)
    for source, target, tensors in tensor_edges(problem.graph):
        for tensor in tensors:
            used_by[tensor] |= {problem.column(parts[part_of[task]].device) for task in (source, target)}
    costs_s = [0.0] * len(parts)
    for tensor, i, direction in sorted(crossed):
        boundary = problem.boundary_costs[tensor].between(used_by[tensor])
        costs_s[i] += (boundary.leave_s if direction == "out" else boundary.enter_s)[problem.column(parts[i].device)]
    return costs_s
