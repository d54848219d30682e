"""What an engine made of a model: the kernels that it runs, which of the model's nodes are in each, and their times.

An engine fuses nodes, puts others in their place and adds some that change layouts. Only it knows which, so an engine
that has a profiler tells (`trisect.runtime.engines.base.ProfilingEngine`); here its tale is brought in line with the
model's own nodes: each node that runs is in exactly one kernel, and no time is left over.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from networkx.utils import UnionFind

_WARM_UP, _FEWEST, _MOST = 4, 8, 200
_MOST_WATCHING_S, _MOST_UNSEEN_S = 15e-6, 5e-6
_LEAST_LEFT = 0.25


@dataclass(frozen=True)
class Kernel:
    """Some of a model's nodes as an engine runs them: at once, or so that nobody can tell them apart."""

    nodes: tuple[str, ...]
    """In the model's order."""
    time_s: float
    """Of a call, changes of layout left out."""
    layout_s: float = 0.0
    """What changes of a tensor's layout before these nodes (or behind the last of all) take."""
    steps: int = 1
    """Of the engine, those that change layouts left out."""

    @property
    def total_s(self) -> float:
        return self.time_s + self.layout_s


@dataclass(frozen=True)
class EngineKernel:
    """One step of an engine, as its profiler tells."""

    name: str
    nodes: tuple[str, ...]
    """Of the model's nodes, those that the engine itself names; none for what it added."""
    time_s: float
    inputs: tuple[str, ...] = ()
    """Names of the steps whose output this one reads."""
    is_layout: bool = False
    """Whether it only changes a tensor's layout."""


def kernels_of(model: onnx.ModelProto, steps: Sequence[EngineKernel]) -> tuple[Kernel, ...]:
    """A model's nodes in the kernels of an engine.

    A step that the engine made up belongs to the next step after it that names a node, else to the last one before it;
    a node that no step names was computed together with the one that reads it, else with what it reads.

    Parameters
    ----------
    model : onnx.ModelProto
        With names for all nodes.
    steps : sequence of EngineKernel

    Returns
    -------
    tuple of Kernel
        In the model's order; empty where no step names any node.

    Examples
    --------
    >>> from onnx import helper
    >>> conv, relu = (helper.make_node(op, given, [made], name=op) for op, given, made in
    ...               [("Conv", ["x", "w"], "y"), ("Relu", ["y"], "z")])
    >>> model = helper.make_model(helper.make_graph([conv, relu], "g", [], []))
    >>> reorder = EngineKernel("reorder", (), 1e-6, is_layout=True)
    >>> kernels_of(model, [reorder, EngineKernel("fused", ("Relu",), 5e-6, ("reorder",))])
    (Kernel(nodes=('Conv', 'Relu'), time_s=5e-06, layout_s=1e-06, steps=1),)
    """
    order = [node.name for node in model.graph.node]
    named = {node for step in steps for node in step.nodes}
    if not named & set(order):
        return ()
    groups: UnionFind[str] = UnionFind()
    for step in steps:
        known = [node for node in step.nodes if node in named]
        for node in known[1:]:
            groups.union(known[0], node)
    place = {step.name: step.nodes[0] for step in steps if step.nodes}
    _settle(place, [step.name for step in steps], {step.name: step.inputs for step in steps})
    home = {node: node for node in order if node in named}
    _settle(home, order, _inputs_of(model))
    for node, beside in home.items():
        groups.union(beside, node)
    plain: dict[str, float] = defaultdict(float)
    layout: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for step in steps:
        if step.name in place and step.time_s > 0:
            key = groups[place[step.name]]
            (layout if step.is_layout else plain)[key] += step.time_s
            counts[key] += not step.is_layout
    members: dict[str, list[str]] = defaultdict(list)
    for node in order:
        if node in home:
            members[groups[node]].append(node)
    return tuple(Kernel(tuple(nodes), plain[key], layout[key], counts[key]) for key, nodes in members.items())


def repeat(run: Callable[[], object], duration_s: float) -> int:
    """Call something for so long, and say how many of the calls only warmed it up."""
    for _ in range(_WARM_UP):
        run()
    end_s, done = time.perf_counter() + duration_s, 0
    while done < _FEWEST or (done < _MOST and time.perf_counter() < end_s):
        run()
        done += 1
    return _WARM_UP


def middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: as steady as a median, finer than the clock that the values were read from.

    Examples
    --------
    >>> middle_mean([3.0, 4.0, 100.0, 3.0])
    3.5
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle) if middle else 0.0


def scaled(kernels: Sequence[Kernel], total_s: float) -> tuple[Kernel, ...]:
    """Kernels that take so long together, which a profiler made slower, and perhaps did not see all of.

    Each step's start and end cost a profiler, and what lies between two steps it does not see: that is the same for all
    steps, and is taken off (or added) first, as far as it is likely. What is left was a slower or a quicker machine.

    Examples
    --------
    >>> [round(k.time_s * 1e6) for k in scaled([Kernel(("a",), 10e-6), Kernel(("b",), 30e-6)], 30e-6)]
    [5, 25]
    >>> [round(k.time_s, 3) for k in scaled([Kernel(("a",), 1.0), Kernel(("b",), 3.0)], 2.0)]
    [0.5, 1.5]
    """
    told_s = sum(kernel.total_s for kernel in kernels)
    steps = sum(kernel.steps + (kernel.layout_s > 0) for kernel in kernels)
    if told_s <= 0 or not steps:
        return tuple(kernels)
    each_s = max(-_MOST_WATCHING_S, min(_MOST_UNSEEN_S, (total_s - told_s) / steps))
    kernels = [
        replace(
            kernel,
            time_s=max(kernel.time_s + kernel.steps * each_s, kernel.time_s * _LEAST_LEFT),
            layout_s=max(kernel.layout_s + each_s, kernel.layout_s * _LEAST_LEFT) if kernel.layout_s > 0 else 0.0,
        )
        for kernel in kernels
    ]
    factor = total_s / sum(kernel.total_s for kernel in kernels)
    return tuple(replace(k, time_s=k.time_s * factor, layout_s=k.layout_s * factor) for k in kernels)


def _settle(place: dict[str, str], order: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> None:
    """Give each name without a place that of its nearest reader, else that of the nearest name that it reads."""
    readers: dict[str, list[str]] = defaultdict(list)
    for name in order:
        for source in inputs.get(name, ()):
            readers[source].append(name)
    settled = dict(place)
    for name in order:
        if name not in place:
            found = _nearest(name, readers, settled) or _nearest(name, inputs, settled)
            if found is not None:
                place[name] = settled[found]


def _nearest(start: str, beside: Mapping[str, Sequence[str]], wanted: Mapping[str, str]) -> str | None:
    queue, seen = deque([start]), {start}
    while queue:
        for name in beside.get(queue.popleft(), ()):
            if name in wanted:
                return name
            if name not in seen:
                seen.add(name)
                queue.append(name)
    return None


def _inputs_of(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Node -> the nodes that it reads from."""
    maker = {made: node.name for node in model.graph.node for made in node.output if made}
    return {node.name: [maker[given] for given in node.input if given in maker] for node in model.graph.node}
