"""Maps an engine's profiler events to model nodes: which nodes each kernel computes, and its time.

An engine fuses and replaces nodes, and adds layout changes; its profiler reports the steps that it really runs
(`trisect.runtime.engines.base.ProfilingEngine`). Here these are mapped to the model's nodes: each node that runs is in
exactly one kernel, and all measured time is assigned.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import networkx as nx
import onnx
from networkx.utils import UnionFind

_WARM_UP_RUNS, _RUNS_MIN, _RUNS_MAX = 4, 8, 200
_PROFILING_MAX_S, _UNPROFILED_MAX_S = 15e-6, 5e-6
"""Limits of the profiler's overhead for each step, and of the time for each step that it does not see."""
_SHARE_MIN = 0.25
"""Of a kernel's time that remains after the profiler's overhead is subtracted."""


@dataclass(frozen=True)
class Kernel:
    """Nodes of a model that an engine computes together, or whose times cannot be separated."""

    nodes: tuple[str, ...]
    """In the model's order."""
    time_s: float
    """Per run, without layout changes."""
    layout_s: float = 0.0
    """Time of layout changes before these nodes, or after the model's last node."""
    steps: int = 1
    """Number of the engine's steps, without layout changes."""

    @property
    def total_s(self) -> float:
        return self.time_s + self.layout_s


@dataclass(frozen=True)
class ProfiledStep:
    """One step of an engine, as its profiler reports it."""

    name: str
    nodes: tuple[str, ...]
    """The model's nodes that the engine names for this step; none for a step that it added."""
    time_s: float
    inputs: tuple[str, ...] = ()
    """Names of the steps whose outputs this one reads."""
    is_layout: bool = False
    """Whether the step only changes a tensor's layout."""


def map_to_nodes(model: onnx.ModelProto, steps: Sequence[ProfiledStep]) -> tuple[Kernel, ...]:
    """Map an engine's profiled steps to the model's nodes.

    A step that names no node is assigned to the next step after it that does, else to the last one before it. A node
    that no step names was fused with the node that reads it, else with those that it reads.

    Parameters
    ----------
    model : onnx.ModelProto
        With names for all nodes.
    steps : sequence of ProfiledStep

    Returns
    -------
    tuple of Kernel
        In the model's order; empty where no step names any node.

    Examples
    --------
    >>> from onnx import helper
    >>> conv, relu = (helper.make_node(op, inputs, [output], name=op) for op, inputs, output in
    ...               [("Conv", ["x", "w"], "y"), ("Relu", ["y"], "z")])
    >>> model = helper.make_model(helper.make_graph([conv, relu], "g", [], []))
    >>> reorder = ProfiledStep("reorder", (), 1e-6, is_layout=True)
    >>> map_to_nodes(model, [reorder, ProfiledStep("fused", ("Relu",), 5e-6, ("reorder",))])
    (Kernel(nodes=('Conv', 'Relu'), time_s=5e-06, layout_s=1e-06, steps=1),)
    """
    order = [node.name for node in model.graph.node]
    named = {node for step in steps for node in step.nodes}
    if not named & set(order):
        return ()
    groups: UnionFind[str] = UnionFind()
    for step in steps:
        nodes = [node for node in step.nodes if node in named]
        for node in nodes[1:]:
            groups.union(nodes[0], node)
    node_of_step = {step.name: step.nodes[0] for step in steps if step.nodes}
    _assign_nearest(node_of_step, [step.name for step in steps], {step.name: step.inputs for step in steps})
    fused_with = {node: node for node in order if node in named}
    _assign_nearest(fused_with, order, _predecessors(model))
    for node, other in fused_with.items():
        groups.union(other, node)
    times_s: dict[str, float] = defaultdict(float)
    layouts_s: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for step in steps:
        if step.name in node_of_step and step.time_s > 0:
            key = groups[node_of_step[step.name]]
            (layouts_s if step.is_layout else times_s)[key] += step.time_s
            counts[key] += not step.is_layout
    members: dict[str, list[str]] = defaultdict(list)
    for node in order:
        if node in fused_with:
            members[groups[node]].append(node)
    return tuple(Kernel(tuple(nodes), times_s[key], layouts_s[key], counts[key]) for key, nodes in members.items())


def run_repeatedly(run: Callable[[], object], duration_s: float) -> int:
    """Warm up, then repeat a call for a time; return the number of warm-up calls."""
    for _ in range(_WARM_UP_RUNS):
        run()
    end_s, count = time.perf_counter() + duration_s, 0
    while count < _RUNS_MIN or (count < _RUNS_MAX and time.perf_counter() < end_s):
        run()
        count += 1
    return _WARM_UP_RUNS


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half: as robust as a median, but finer than the resolution of the values.

    Examples
    --------
    >>> interquartile_mean([3.0, 4.0, 100.0, 3.0])
    3.5
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle) if middle else 0.0


def scale_to_total(kernels: Sequence[Kernel], total_s: float) -> tuple[Kernel, ...]:
    """Correct profiled times so that they add up to the time of a run without the profiler.

    The profiler's overhead is the same for each step, and so is the time between two steps, which it does not see:
    that is subtracted (or added) first, within limits. The rest is scaled, as the speed of the machine varies.

    Examples
    --------
    >>> [round(k.time_s * 1e6) for k in scale_to_total([Kernel(("a",), 10e-6), Kernel(("b",), 30e-6)], 30e-6)]
    [5, 25]
    >>> [round(k.time_s, 3) for k in scale_to_total([Kernel(("a",), 1.0), Kernel(("b",), 3.0)], 2.0)]
    [0.5, 1.5]
    """
    profiled_s = sum(kernel.total_s for kernel in kernels)
    steps = sum(kernel.steps + (kernel.layout_s > 0) for kernel in kernels)
    if profiled_s <= 0 or not steps:
        return tuple(kernels)
    per_step_s = max(-_PROFILING_MAX_S, min(_UNPROFILED_MAX_S, (total_s - profiled_s) / steps))
    kernels = [
        replace(
            kernel,
            time_s=max(kernel.time_s + kernel.steps * per_step_s, kernel.time_s * _SHARE_MIN),
            layout_s=max(kernel.layout_s + per_step_s, kernel.layout_s * _SHARE_MIN) if kernel.layout_s > 0 else 0.0,
        )
        for kernel in kernels
    ]
    factor = total_s / sum(kernel.total_s for kernel in kernels)
    return tuple(replace(k, time_s=k.time_s * factor, layout_s=k.layout_s * factor) for k in kernels)


def _assign_nearest(assigned: dict[str, str], order: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> None:
    """Assign to each missing name what its nearest reader has, else what the nearest of its inputs has, in place."""
    graph = nx.DiGraph((source, name) for name in order for source in inputs.get(name, ()))
    graph.add_nodes_from(order)
    known = dict(assigned)
    for name in order:
        if name not in assigned:
            edges = chain(nx.bfs_edges(graph, name), nx.bfs_edges(graph, name, reverse=True))
            nearest = next((neighbour for _, neighbour in edges if neighbour in known), None)
            if nearest is not None:
                assigned[name] = known[nearest]


def producers_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return for each tensor the name of the node that produces it."""
    return {output: node.name for node in model.graph.node for output in node.output if output}


def _predecessors(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return for each node the nodes whose outputs it reads."""
    producers = producers_of(model)
    return {node.name: [producers[name] for name in node.input if name in producers] for node in model.graph.node}
