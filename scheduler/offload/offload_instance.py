"""A problem of hosts and equal accelerators as plain lists, contracted to the decisions that matter.

Colocated tasks become one group. A task whose best device is always its neighbour's (a weight that only one operator
reads) is merged into that neighbour's group: that keeps the optimum and halves the graphs of operators.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf

import networkx as nx

from trisect.runtime.errors import InfeasibleProblem

from ..problem.disjoint_sets import DisjointSets
from ..problem.problem import Problem
from ..problem.task_graph import topological_order


@dataclass(frozen=True)
class Net:
    """A hyperedge: the output of one task and its readers. Each accelerator that sends or fetches it pays once."""

    producer: int
    readers: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class OffloadStep:
    """A task in the latency model: on a host it runs by itself, even where its group shares the device."""

    group: int
    host_time: float
    acc_time: float
    preds: tuple[int, ...]
    """Numbers of other steps, all smaller than its own."""
    succs: tuple[int, ...]


@dataclass(frozen=True)
class OffloadInstance:
    """Groups 0..n-1; devices 0..hosts-1 are hosts, the following ones accelerators."""

    groups: tuple[tuple[str, ...], ...]
    """Tasks of each group; in topological order, unless colocation makes the order cyclic."""
    host_time: list[float]
    acc_time: list[float]
    size: list[float]
    nets: list[Net]
    preds: list[list[int]]
    """Order constraints of a pipeline: of forward tasks, between different groups."""
    succs: list[list[int]]
    hosts: int
    accelerators: int
    capacity: float
    device_ids: tuple[str, ...]
    steps: tuple[OffloadStep, ...] = ()
    """In topological order, without tasks that delay no other."""
    gradient_order: tuple[tuple[int, int], ...] = ()
    """Pairs of groups (reader, producer) of a gradient, at least one without forward tasks. No constraint, but a
    good pipeline usually runs the reader's device first, as it does where both have forward tasks."""

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def devices(self) -> int:
        """Number of hosts and accelerators."""
        return self.hosts + self.accelerators

    def to_placement(self, where: Iterable[int]) -> dict[str, str]:
        """Return the placement of tasks from the device number of each group."""
        return {
            task: self.device_ids[device] for tasks, device in zip(self.groups, where, strict=True) for task in tasks
        }

    def from_placement(self, placement: Mapping[str, str]) -> list[int]:
        """Return the device number of each group; of a divided group, that of its first task."""
        number = {device: i for i, device in enumerate(self.device_ids)}
        return [number[placement[tasks[0]]] for tasks in self.groups]


def make_instance(problem: Problem, *, contract: bool = True) -> OffloadInstance:
    """Contract a problem of the offload convention.

    Parameters
    ----------
    contract : bool
        Also merge tasks whose best device is their neighbour's; else only colocated ones.

    Raises
    ------
    InfeasibleProblem
        When accelerators differ, or no device can run a colocated group.
    """
    hosts = [i for i, d in enumerate(problem.devices) if d.kind == "cpu"]
    accelerators = [i for i, d in enumerate(problem.devices) if d.kind != "cpu"]
    for kind in (hosts, accelerators):
        if any(times[i] != times[kind[0]] for times in problem.times_s.values() for i in kind):
            raise InfeasibleProblem(
                "expected equal devices of each kind, found different times", remedy="use a strategy that is not exact"
            )
    device_ids = tuple(problem.devices[i].id for i in (*hosts, *accelerators))
    capacities = [problem.devices[i].memory_bytes for i in accelerators]
    capacity = min((float(c) for c in capacities if c is not None), default=inf)
    return _Contraction(problem, hosts, accelerators, capacity).result(device_ids, contract)


class _Contraction:
    """Contraction of tasks into groups, and the instance that follows."""

    def __init__(self, problem: Problem, hosts: list[int], accelerators: list[int], capacity: float) -> None:
        self.problem = problem
        self.hosts, self.accelerators, self.capacity = hosts, accelerators, capacity
        self.tasks = topological_order(problem.graph)
        self.groups = DisjointSets(self.tasks)
        self.all_fit = sum(problem.rules.sizes_bytes.values()) <= capacity
        self.costs = {task: _cost(problem, task, hosts, accelerators) for task in self.tasks}

    def result(self, device_ids: tuple[str, ...], contract: bool) -> OffloadInstance:
        """Merge what must or may be merged, and return the instance."""
        rules = self.problem.rules
        for colocated in rules.colocated:
            for task in colocated[1:]:
                self.groups.merge(colocated[0], task)
        if rules.contiguous:
            # All tasks on paths between two tasks of a convex piece are in the piece.
            for component in list(nx.strongly_connected_components(self.order_graph())):
                first, *others = sorted(component)
                for other in others:
                    self.groups.merge(first, other)
        while contract and self.contract_neighbours():
            pass
        return self.numbered(device_ids)

    def order_graph(self) -> nx.DiGraph[str]:
        """Return the precedence graph of the groups, without the backward pass."""
        order: nx.DiGraph[str] = nx.DiGraph()
        order.add_nodes_from(dict.fromkeys(self.groups.find(task) for task in self.tasks))
        backward = self.problem.rules.backward
        for source, target in self.problem.graph.edges:
            a, b = self.groups.find(source), self.groups.find(target)
            if a != b and source not in backward and target not in backward:
                order.add_edge(a, b)
        return order

    def totals(self, tasks: list[str]) -> tuple[float, float, float]:
        """Return the time on a host, the time on an accelerator, and the bytes."""
        times, sizes = self.problem.times_s, self.problem.rules.sizes_bytes
        host = sum(times[t][self.hosts[0]] for t in tasks) if self.hosts else inf
        accelerator = sum(times[t][self.accelerators[0]] for t in tasks) if self.accelerators else inf
        return host, accelerator, sum(sizes.get(t, 0.0) for t in tasks)

    def contract_neighbours(self) -> bool:
        """Merge groups whose best device is their neighbour's; return False when there were none left."""
        graph = self.problem.graph
        merged = False
        stale: set[str] = set()
        groups = self.groups.members()
        totals = {root: self.totals(tasks) for root, tasks in groups.items()}
        for root, tasks in groups.items():
            host, accelerator, size = totals[root]
            if host > 0 or accelerator == inf or not (size == 0 or self.all_fit):
                continue
            inside = set(tasks)
            inputs = {p for t in tasks for p in graph.predecessors(t) if p not in inside}
            readers = {self.groups.find(s) for t in tasks for s in graph.successors(t) if s not in inside}
            producers = [t for t in tasks if any(s not in inside for s in graph.successors(t))]
            sources = {self.groups.find(p) for p in inputs}
            target = None
            if not inputs and len(readers) == 1 and accelerator <= sum(self.costs[t] for t in producers):
                target = next(iter(readers))
            elif not producers and len(inputs) == 1 and accelerator == 0:
                target = next(iter(sources))
            elif len(inputs) == 1 and len(producers) == 1 and accelerator == 0:
                arriving, leaving = self.costs[next(iter(inputs))], self.costs[producers[0]]
                only = all(s in inside for s in graph.successors(next(iter(inputs))))
                if only and arriving >= leaving:
                    target = next(iter(sources))
                elif len(readers) == 1 and arriving <= leaving:
                    target = next(iter(readers))
            touched = {root, *sources, *readers}
            if target is None or touched & stale:
                continue
            stale |= touched
            self.groups.merge(target, root)
            merged = True
        return merged

    def numbered(self, device_ids: tuple[str, ...]) -> OffloadInstance:
        """Return the instance with groups numbered in topological order."""
        groups = self.groups.members()
        order = self.order_graph()
        is_acyclic = nx.is_directed_acyclic_graph(order)
        roots = topological_order(order) if is_acyclic else list(groups)
        number = {root: i for i, root in enumerate(roots)}
        group_of = {task: number[self.groups.find(task)] for task in self.tasks}
        nets = []
        for task in self.tasks:
            readers = sorted({group_of[s] for s in self.problem.graph.successors(task)} - {group_of[task]})
            if readers and self.costs[task] > 0:
                nets.append(Net(group_of[task], tuple(readers), self.costs[task]))
        totals = [self.totals(groups[root]) for root in roots]
        for root, (host, accelerator, _) in zip(roots, totals, strict=True):
            if host == inf and accelerator == inf:
                raise InfeasibleProblem(
                    f"no device can run {', '.join(groups[root][:3])} together", remedy="loosen a constraint"
                )
        return OffloadInstance(
            groups=tuple(tuple(groups[root]) for root in roots),
            host_time=[t[0] for t in totals],
            acc_time=[t[1] for t in totals],
            size=[t[2] for t in totals],
            nets=nets,
            preds=[sorted(number[p] for p in order.predecessors(root)) for root in roots],
            succs=[sorted(number[s] for s in order.successors(root)) for root in roots],
            hosts=len(self.hosts),
            accelerators=len(self.accelerators),
            capacity=self.capacity,
            device_ids=device_ids,
            steps=self.steps(group_of),
            gradient_order=self.gradient_order(groups, number),
        )

    def gradient_order(
        self, groups: Mapping[str, Collection[str]], number: Mapping[str, int]
    ) -> tuple[tuple[int, int], ...]:
        """Return the pairs of groups in which a gradient passes to or from a group without forward tasks."""
        backward = self.problem.rules.backward
        without_forward = {root for root, tasks in groups.items() if backward.issuperset(tasks)}
        pairs: dict[tuple[int, int], None] = {}
        for source, target in self.problem.graph.edges:
            a, b = self.groups.find(source), self.groups.find(target)
            if a != b and source in backward and target in backward and not without_forward.isdisjoint((a, b)):
                pairs[number[b], number[a]] = None
        return tuple(pairs)

    def steps(self, group_of: Mapping[str, int]) -> tuple[OffloadStep, ...]:
        """Return the tasks in order, without sources that only their own group reads and that take no time."""
        graph, times = self.problem.graph, self.problem.times_s
        number: dict[str, int] = {}
        for task in self.tasks:
            host = times[task][self.hosts[0]] if self.hosts else inf
            # A task that no other reads ends its device's call, also where the host would need no time for it.
            inner = bool(graph.succ[task]) and all(group_of[s] == group_of[task] for s in graph.successors(task))
            if host > 0 or graph.pred[task] or not inner:
                number[task] = len(number)
        return tuple(
            OffloadStep(
                group_of[task],
                times[task][self.hosts[0]] if self.hosts else inf,
                times[task][self.accelerators[0]] if self.accelerators else inf,
                tuple(number[p] for p in graph.predecessors(task) if p in number),
                tuple(number[t] for t in graph.successors(task)),
            )
            for task in number
        )


def _cost(problem: Problem, task: str, hosts: list[int], accelerators: list[int]) -> float:
    """Return the cost of moving a task's output between an accelerator and the host, the same for every reader."""
    if not accelerators or not hosts:
        return 0.0
    device, host = problem.devices[accelerators[0]].id, problem.devices[hosts[0]].id
    sizes = {size for _, _, data in problem.graph.out_edges(task, data=True) for size in data["tensors"].values()}
    return max((problem.transfer_time(size, device, host) for size in sizes), default=0.0)
