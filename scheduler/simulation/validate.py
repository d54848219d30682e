"""The one validator: what is wrong with a placement, a cut or a schedule, if anything.

Tests, benchmarks and the planner all ask it. It takes nothing from the code that makes placements and schedules, so
that it can find fault with them.
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
    """One fault: what kind, where, and in words."""

    kind: Kind
    where: str
    message: str


def validate_placement(problem: Problem, placement: Placement) -> list[Violation]:
    """Every task on one device that exists, can run it and may run it.

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
    found = []
    ids = set(problem.device_ids)
    for node in problem.graph:
        device = placement.get(node)
        if device is None:
            found.append(Violation("unplaced", node, f"{node} has no device"))
        elif device not in ids:
            found.append(Violation("unknown", node, f"{node} is on {device}, which is not in the problem"))
        elif problem.time(node, device) == inf:
            found.append(Violation("unsupported", node, f"{node} cannot or must not run on {device}"))
    found.extend(
        Violation("unknown", n, f"{n} is placed but not in the graph") for n in placement if n not in problem.graph
    )
    return found


def validate_parts(problem: Problem, placement: Placement, parts: Sequence[Part]) -> list[Violation]:
    """Every task in exactly one part, on the part's device, and no circle among the parts (so each is convex)."""
    found = []
    homes: dict[str, list[int]] = {node: [] for node in problem.graph}
    for i, part in enumerate(parts):
        for node in part.nodes:
            homes.setdefault(node, []).append(i)
            if placement.get(node) != part.device:
                found.append(
                    Violation(
                        "mixed", node, f"{node} is placed on {placement.get(node)} but cut into a part of {part.device}"
                    )
                )
    found.extend(
        Violation("uncovered", node, f"{node} is in {len(where)} parts")
        for node, where in homes.items()
        if len(where) != 1
    )
    quotient: nx.DiGraph[int] = nx.DiGraph()
    quotient.add_nodes_from(range(len(parts)))
    for source, target in problem.graph.edges:
        quotient.add_edges_from((i, j) for i in homes[source] for j in homes[target] if i != j)
    if not nx.is_directed_acyclic_graph(quotient):
        circle = [i for i, _ in nx.find_cycle(quotient)]
        found.append(Violation("cycle", f"part {circle[0]}", f"parts {circle} wait for each other"))
    return found


def validate_rules(
    problem: Problem, placement: Placement, parts: Sequence[Part], peaks_bytes: Mapping[str, int] | None = None
) -> list[Violation]:
    """What was demanded beyond costs: together what must be together, few enough parts, room in every memory.

    Parameters
    ----------
    problem : Problem
    placement : mapping of str to str
    parts : sequence of Part
        What the placement was cut into.
    peaks_bytes : mapping of str to int, optional
        What each device holds at its fullest moment; only weights are counted when left out.
    """
    found = []
    rules = problem.rules
    for together in rules.colocated:
        if len({placement[task] for task in together}) > 1:
            text = f"{together[0]} and others that must be with it are on different devices"
            found.append(Violation("apart", together[0], text))
    if rules.max_segments is not None and len(parts) > rules.max_segments:
        found.append(Violation("segments", "", f"{len(parts)} segments, at most {rules.max_segments} are allowed"))
    if rules.contiguous:
        found += [
            Violation("contiguous", device, f"{device} gets {count} segments and may have one")
            for device, count in Counter(part.device for part in parts).items()
            if count > 1
        ]
    held: dict[str, float] = defaultdict(float)
    for task, device_id in placement.items():
        held[device_id] += problem.held_bytes(task, device_id)
    for device in problem.devices:
        needed = max(held[device.id], (peaks_bytes or {}).get(device.id, 0))
        if device.memory_bytes is not None and needed > device.memory_bytes:
            text = f"{device.id} has to hold {needed:.0f} bytes and has room for {device.memory_bytes}"
            found.append(Violation("memory", device.id, text))
    return found


def validate_schedule(problem: Problem, parts: Sequence[Part], schedule: Schedule) -> list[Violation]:
    """Each part once per item, as long as it takes, alone on its device, after all that it reads has arrived."""
    found = []
    runs = {}
    for event in schedule.events:
        if event.kind == "compute":
            if (event.item, event.name) in runs:
                found.append(Violation("overlap", event.name, f"{event.name} runs twice for item {event.item}"))
            runs[event.item, event.name] = event
    items = sorted({event.item for event in schedule.events}) or [0]
    home = {node: i for i, part in enumerate(parts) for node in part.nodes}
    boundaries_s = _boundaries_s(problem, parts, home)
    for item in items:
        for i, part in enumerate(parts):
            run = runs.get((item, f"segment {i}"))
            if run is None or run.device != part.device:
                found.append(
                    Violation("missing", f"segment {i}", f"segment {i} of item {item} does not run on {part.device}")
                )
                continue
            needed_s = problem.overhead(part.device) + sum(problem.time(node, part.device) for node in part.nodes)
            needed_s += boundaries_s[i]
            if run.duration_s < needed_s - _ROUNDING_S:
                found.append(
                    Violation("duration", run.name, f"{run.name} runs {run.duration_s} s but needs {needed_s} s")
                )
        for source, target, tensors in tensor_edges(problem.graph):
            made, used = (runs.get((item, f"segment {home[n]}")) for n in (source, target))
            if home[source] == home[target] or made is None or used is None:
                continue
            slowest_s = max(
                (problem.transfer_time(size, made.device, used.device) for size in tensors.values()), default=0.0
            )
            if used.start_s < made.end_s + slowest_s - _ROUNDING_S:
                found.append(Violation("precedence", target, f"{target} starts before what {source} makes has arrived"))
    for device in problem.device_ids:
        mine = sorted((e for e in runs.values() if e.device == device), key=lambda e: (e.start_s, e.end_s))
        for first, second in pairwise(mine):
            if second.start_s < first.end_s - _ROUNDING_S:
                found.append(
                    Violation("overlap", device, f"{first.name} and {second.name} run on {device} at the same time")
                )
    return found


def _boundaries_s(problem: Problem, parts: Sequence[Part], home: Mapping[str, int]) -> list[float]:
    """Per part, what tensors cost it that enter or leave it, each once."""
    crossed = {
        (tensor, i, way)
        for source, target, tensors in tensor_edges(problem.graph)
        for tensor in tensors
        if home[source] != home[target] and tensor in problem.boundary_costs
        for i, way in ((home[source], "out"), (home[target], "in"))
    }
    found = [0.0] * len(parts)
    for tensor, i, way in sorted(crossed):
        border = problem.boundary_costs[tensor]
        found[i] += (border.leave_s if way == "out" else border.enter_s)[problem.column(parts[i].device)]
    return found
