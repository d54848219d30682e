"""Random problems of the offload convention, and their optima by enumeration."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations, product

import networkx as nx
from hypothesis import strategies as st

from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules


def by_way_of_host(devices: Iterable[Device]) -> Platform:
    """Data passes through the host's memory: a byte takes one unit of time to or from an accelerator."""
    links = {(a.id, b.id): LinkCost(bytes_per_s=1.0) for a, b in permutations(devices, 2) if "cpu:0" in (a.id, b.id)}
    return Platform(links, default_link=LinkCost(bytes_per_s=0.5))


@st.composite
def offload_problems(
    draw: st.DrawFn,
    objective: Objective,
    *,
    contiguous: bool = False,
    largest: int = 6,
    colocation: bool = False,
    training: bool = False,
    chain: bool = False,
) -> Problem:
    """Few tasks with whole costs, one host core, one or two accelerators with little memory."""
    count = draw(st.integers(1, largest))
    names = [f"n{i}" for i in range(count)]
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    costs = [draw(st.integers(0, 4)) for _ in names]
    for j in range(1, count):
        for i in {j - 1} if chain else draw(st.sets(st.integers(0, j - 1), max_size=2)):
            graph.add_edge(names[i], names[j], tensors={f"t{i}": costs[i]})
    accelerators = draw(st.integers(1, 2))
    capacity = draw(st.sampled_from([4, 8, 100]))
    devices = [
        Device("cpu:0", "cpu", "t", ""),
        *(Device(f"npu:{i}", "npu", "t", "", memory_bytes=capacity) for i in range(accelerators)),
    ]
    times = {}
    for name in names:
        # Every task can run on the host, so that there always is a placement.
        times[name] = {"cpu:0": float(draw(st.sampled_from([0, 0, 2, 5, 9])))}
        if draw(st.integers(0, 5)):
            times[name] |= dict.fromkeys((d.id for d in devices[1:]), float(draw(st.integers(0, 3))))
    colocated = ()
    backward: frozenset[str] = frozenset()
    if (colocation or training) and count > 2:
        first = draw(st.integers(0, count - 2))
        colocated = ((names[first], names[draw(st.integers(first + 1, count - 1))]),)
    if training and count > 2:
        backward = frozenset(names[draw(st.integers(1, count)) :])
    return Problem.of(
        graph,
        devices,
        times,
        by_way_of_host(devices),
        objective=objective,
        rules=Rules(
            convention="offload",
            contiguous=contiguous,
            sizes_bytes={name: float(draw(st.integers(0, 3))) for name in names},
            colocated=colocated,
            backward=backward,
        ),
    )


def best_of_all(problem: Problem) -> float:
    """The optimum, by trying every placement."""
    result = []
    for where in product(problem.device_ids, repeat=len(problem.graph)):
        placement = dict(zip(problem.graph, where, strict=True))
        if not offload_violations(problem, placement):
            result.append(offload_value(problem, placement))
    return min(result)


def diamond(**rules: object) -> Problem:
    """a -> b, c -> d on a host and two accelerators; a's output costs 1 to move, the others' 10."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for source, target in (("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")):
        graph.add_edge(source, target, tensors={f"t{source}": 1 if source == "a" else 10})
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "", memory_bytes=5) for i in (0, 1))]
    return Problem.of(
        graph,
        devices,
        lambda node, device: 100.0 if device == "cpu:0" else 3.0,
        by_way_of_host(devices),
        objective="throughput",
        rules=Rules(convention="offload", sizes_bytes={"a": 2.0, "b": 2.0}, **rules),  # type: ignore[arg-type]
    )
