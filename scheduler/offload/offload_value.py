"""The value of a placement under the offload convention, and its violations.

Written from the definition, task by task on the problem's own graph: it shares no code with the solvers, so that it
finds their faults.
"""

from __future__ import annotations

from collections import defaultdict

import networkx as nx

from ..problem.problem import Placement, Problem
from ..problem.task_graph import topological_order
from ..simulation.validate import Violation, validate_placement


def offload_value(problem: Problem, placement: Placement) -> float:
    """Return the largest load, or the latency with one call per accelerator, in the problem's unit of time.

    Parameters
    ----------
    problem : Problem
        With the convention ``offload``.
    placement : mapping of str to str
        Without violations.

    Examples
    --------
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> from trisect.scheduler.problem.rules import Rules
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("a", "b", tensors={"t": 1})
    >>> devices = [Device("cpu:0", "cpu", "x", ""), Device("npu:0", "npu", "x", "")]
    >>> times = {"a": {"cpu:0": 4.0, "npu:0": 1.0}, "b": {"cpu:0": 4.0, "npu:0": 1.0}}
    >>> problem = Problem.of(graph, devices, times, Platform(default_link=LinkCost(0.5)), objective="throughput",
    ...                      rules=Rules(convention="offload"))
    >>> offload_value(problem, {"a": "cpu:0", "b": "npu:0"}), offload_value(problem, {"a": "npu:0", "b": "npu:0"})
    (4.0, 2.0)
    """
    loads = device_loads(problem, placement)
    if problem.objective == "throughput":
        return max(loads.values(), default=0.0)
    return _latency(problem, placement, loads)


def device_loads(problem: Problem, placement: Placement) -> dict[str, float]:
    """Return, per device, the times of its tasks and, for accelerators, its transfers, each task's output once."""
    host = _host(problem)
    loads = dict.fromkeys(problem.device_ids, 0.0)
    for task, device in placement.items():
        loads[device] += problem.time(task, device)
    for task in problem.graph:
        readers = {placement[s] for s in problem.graph.successors(task)}
        cost = _cost(problem, task, host)
        if placement[task] not in host and readers - {placement[task]}:
            loads[placement[task]] += cost
        for device in readers - host - {placement[task]}:
            loads[device] += cost
    return loads


def offload_violations(problem: Problem, placement: Placement) -> list[Violation]:
    """Return every violation of a placement: devices, memory, colocation, contiguity."""
    violations = validate_placement(problem, placement)
    if violations:
        return violations
    rules = problem.rules
    held: dict[str, float] = defaultdict(float)
    for task, size in rules.sizes_bytes.items():
        held[placement[task]] += size
    for device in problem.devices:
        if device.memory_bytes is not None and held[device.id] > device.memory_bytes:
            text = f"{device.id} needs {held[device.id]:.0f} bytes and has {device.memory_bytes}"
            violations.append(Violation("memory", device.id, text))
    for together in rules.colocated:
        if len({placement[task] for task in together}) > 1:
            text = f"{together[0]} and tasks colocated with it are on different devices"
            violations.append(Violation("apart", together[0], text))
    if rules.contiguous or problem.objective == "latency":
        pieces = _pieces(problem, placement)
        if not nx.is_directed_acyclic_graph(pieces):
            cycle = [a for a, _ in nx.find_cycle(pieces)]
            violations.append(Violation("cycle", cycle[0], f"pieces wait for each other: {', '.join(cycle)}"))
    return violations


def _host(problem: Problem) -> set[str]:
    return {device.id for device in problem.devices if device.kind == "cpu"}


def _cost(problem: Problem, task: str, host: set[str]) -> float:
    sizes = [size for _, _, data in problem.graph.out_edges(task, data=True) for size in data["tensors"].values()]
    accelerators = [d.id for d in problem.devices if d.kind != "cpu"]
    if not sizes or not accelerators or not host:
        return 0.0
    return problem.transfer_time(max(sizes), accelerators[0], min(host))


def _pieces(problem: Problem, placement: Placement) -> nx.DiGraph[str]:
    """Return the precedence graph of the pieces of devices, and for latency of the host's tasks one by one."""
    host = _host(problem)

    def piece(task: str) -> str:
        alone = problem.objective == "latency" and placement[task] in host
        return f"task {task}" if alone else placement[task]

    pieces: nx.DiGraph[str] = nx.DiGraph()
    pieces.add_nodes_from(piece(task) for task in problem.graph)
    for source, target in problem.graph.edges:
        if problem.rules.backward.isdisjoint((source, target)) and piece(source) != piece(target):
            pieces.add_edge(piece(source), piece(target))
    return pieces


def _latency(problem: Problem, placement: Placement, loads: dict[str, float]) -> float:
    host = _host(problem)
    pieces = _pieces(problem, placement)
    end: dict[str, float] = {}
    for name in topological_order(pieces):
        begin = max((end[before] for before in pieces.predecessors(name)), default=0.0)
        if name in loads and name not in host:
            end[name] = begin + loads[name]
        else:
            task = name.removeprefix("task ")
            end[name] = begin + problem.time(task, placement[task])
    return max(end.values(), default=0.0)
