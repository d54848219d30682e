"""Resolves the selectors of constraints: which tasks or nodes, and which devices, they name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device, select
from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from .constraints import Constraints


def named_node_devices(
    graph: Graph, constraints: Constraints, devices: Sequence[Device], absent: Sequence[Device] = ()
) -> dict[str, frozenset[str]]:
    """Return the nodes that constraints name, with the ids of the devices where each may run.

    Nodes that must stay on one device share what is left for all of them.

    Raises
    ------
    InvalidInput, UnknownDevice
        As `trisect.partitioner.problem.constrained_problem.constrained`.
    """
    if not (constraints.force or constraints.forbid):
        return {}
    running = {name for name, is_constant in graph.digraph.nodes(data="constant") if not is_constant}
    selectors = SelectorResolver(graph.digraph.subgraph(running), frozenset(graph.digraph.nodes - running))
    everywhere = frozenset(device.id for device in devices)
    allowed: dict[str, frozenset[str]] = {}
    for selector, text in constraints.force.items():
        ids = {device.id for device in selected_devices(text, devices, absent)}
        for node in selectors.select(selector):
            allowed[node] = allowed.get(node, everywhere) & ids
    for selector, text in constraints.forbid.items():
        ids = {device.id for device in selected_devices(text, devices, absent)}
        for node in selectors.select(selector):
            allowed[node] = allowed.get(node, everywhere) - ids
    for group in merged_groups(selectors.select_all(group) for group in constraints.colocate):
        common = everywhere.intersection(*(allowed.get(node, everywhere) for node in group))
        if common != everywhere:
            allowed.update(dict.fromkeys(group, common))
    return allowed


@dataclass(frozen=True)
class SelectorResolver:
    """Finds the tasks that selectors match."""

    graph: TaskGraph
    """Tasks with their ``nodes`` and ``operators``, or nodes with their ``features``."""
    constants: frozenset[str]
    """Nodes that need not run: they may be named, without effect."""

    def select(self, selector: str) -> list[str]:
        """Return the tasks that a selector matches."""
        kind, _, value = selector.partition(":")
        tasks = self.graph.nodes(data=True)
        if kind == "re" and value:
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise InvalidInput(f"invalid regular expression {selector!r}: {error}", remedy="correct it") from error
            matches = [t for t, data in tasks if any(pattern.fullmatch(n) for n in _nodes(t, data))]
            return matches or self._no_match(selector, value, [], any(map(pattern.fullmatch, self.constants)))
        if kind == "op" and value:
            types = {task: {f.op_type for f in _operators(data)} for task, data in tasks}
            matches = [t for t, ops in types.items() if value in ops | {op.rpartition("::")[2] for op in ops}]
            return matches or self._no_match(selector, value, {op for ops in types.values() for op in ops})
        if kind == "class" and value:
            if value not in {op_class.value for op_class in OpClass}:
                self._no_match(selector, value, [op_class.value for op_class in OpClass])
            classes = {task: data["features"].op_class.value for task, data in tasks if "features" in data}
            matches = [task for task, op_class in classes.items() if op_class == value]
            return matches or self._no_match(selector, value, set(classes.values()))
        owner = {node: task for task, data in tasks for node in _nodes(task, data)}
        if selector in owner:
            return [owner[selector]]
        return self._no_match(selector, selector, owner, selector in self.constants)

    def select_all(self, selectors: Iterable[str]) -> tuple[str, ...]:
        """Return the tasks that any of the selectors matches, in the graph's order."""
        chosen = {task for selector in selectors for task in self.select(selector)}
        return tuple(task for task in self.graph if task in chosen)

    def _no_match(self, selector: str, value: str, known: Iterable[str], is_constant: bool = False) -> list[str]:
        if is_constant:
            return []
        near = difflib.get_close_matches(value, sorted(known), n=1, cutoff=0.4)
        prefix = selector.partition(":")[0] + ":" if value != selector else ""
        remedy = (
            f"did you mean {prefix + near[0]!r}?" if near else "leave it out, or list the names with trisect explain"
        )
        raise InvalidInput(f"the constraint {selector!r} matches nothing in this model", remedy=remedy)


def _nodes(task: str, data: Mapping[str, object]) -> tuple[str, ...]:
    nodes = data.get("nodes")
    return nodes if isinstance(nodes, tuple) else (task,)


def _operators(data: Mapping[str, object]) -> tuple[OpFeatures, ...]:
    operators = data.get("operators") or ((data["features"],) if data.get("features") is not None else ())
    return operators if isinstance(operators, tuple) else ()


def selected_devices(text: str, devices: Sequence[Device], absent: Sequence[Device]) -> list[Device]:
    """Return the devices that a constraint names, without absent ones."""
    present = {device.id for device in devices}
    return [device for device in select(text, [*devices, *absent]) if device.id in present]


def merged_groups(groups: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Merge groups that share a member."""
    merged: list[list[str]] = []
    for group in map(list, groups):
        touching = [other for other in merged if not set(other).isdisjoint(group)]
        merged = [other for other in merged if other not in touching]
        merged.append(list(dict.fromkeys([*(task for other in touching for task in other), *group])))
    return tuple(tuple(group) for group in merged if len(group) > 1)
