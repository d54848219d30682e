"""A Problem of hosts and equal accelerators as plain lists, contracted to what can really be decided.

Colocated tasks become one group. A task whose best place is always beside its neighbour (a weight that only one
operator reads) joins that neighbour's group: that loses no optimum and halves the graphs of operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

import networkx as nx

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Problem


@dataclass(frozen=True)
class Net:
    """What one task makes: read by groups, moved at a cost, paid once by each accelerator that sends or fetches it."""

    home: int
    readers: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class OffloadStep:
    """A task as latency sees it: on a host it runs by itself, even where its group shares the device."""

    group: int
    host_time: float
    acc_time: float
    preds: tuple[int, ...]
    """Other steps, all of them before this one."""
    succs: tuple[int, ...]


@dataclass(frozen=True)
class OffloadInstance:
    """Groups 0..n-1, devices 0..hosts-1 (hosts) and from there on (accelerators)."""

    groups: tuple[tuple[str, ...], ...]
    """In topological order where the order matters."""
    host_time: list[float]
    acc_time: list[float]
    size: list[float]
    nets: list[Net]
    preds: list[list[int]]
    """Order that a pipeline keeps: of forward tasks, between different groups."""
    succs: list[list[int]]
    hosts: int
    accelerators: int
    capacity: float
    device_ids: tuple[str, ...]
    steps: tuple[OffloadStep, ...] = ()
    """In topological order, without those that keep nobody waiting."""

    @property
    def count(self) -> int:
        return len(self.groups)

    @property
    def devices(self) -> int:
        return self.hosts + self.accelerators

    def to_placement(self, where: Iterable[int]) -> dict[str, str]:
        """Placement of tasks from the device number of each group."""
        return {
            task: self.device_ids[device] for tasks, device in zip(self.groups, where, strict=True) for task in tasks
        }

    def from_placement(self, placement: Mapping[str, str]) -> list[int]:
        """Device number of each group; of a group that is torn apart, that of its first task."""
        number = {device: i for i, device in enumerate(self.device_ids)}
        return [number[placement[tasks[0]]] for tasks in self.groups]


def make_instance(problem: Problem, *, contract: bool = True) -> OffloadInstance:
    """Contract a problem of the offload convention.

    Parameters
    ----------
    problem : Problem
    contract : bool
        Also join tasks whose best place is beside their neighbour. Off, only what must be together is joined.

    Raises
    ------
    InfeasibleProblem
        When accelerators differ, or what must be together can run nowhere together.
    """
    hosts = [i for i, d in enumerate(problem.devices) if d.kind == "cpu"]
    accelerators = [i for i, d in enumerate(problem.devices) if d.kind != "cpu"]
    for kind in (hosts, accelerators):
        if any(times[i] != times[kind[0]] for times in problem.times_s.values() for i in kind):
            raise InfeasibleProblem(
                "devices of one kind take different times", remedy="solve it with a strategy that is not exact"
            )
    device_ids = tuple(problem.devices[i].id for i in (*hosts, *accelerators))
    capacities = [problem.devices[i].memory_bytes for i in accelerators]
    capacity = min((float(c) for c in capacities if c is not None), default=inf)
    return _Contraction(problem, hosts, accelerators, capacity).result(device_ids, contract)


class _Contraction:
    """Union-find over tasks, and what follows from it."""

    def __init__(self, problem: Problem, hosts: list[int], accelerators: list[int], capacity: float) -> None:
        self.problem = problem
        self.hosts, self.accelerators, self.capacity = hosts, accelerators, capacity
        self.tasks = list(nx.topological_sort(problem.graph))
        self.parent = {task: task for task in self.tasks}
        self.fits = sum(problem.rules.sizes_bytes.values()) <= capacity
        self.costs = {task: _cost(problem, task, hosts, accelerators) for task in self.tasks}

    def find(self, task: str) -> str:
        while self.parent[task] != task:
            self.parent[task] = self.parent[self.parent[task]]
            task = self.parent[task]
        return task

    def join(self, a: str, b: str) -> None:
        self.parent[self.find(a)] = self.find(b)

    def result(self, device_ids: tuple[str, ...], contract: bool) -> OffloadInstance:
        rules = self.problem.rules
        for together in rules.colocated:
            for task in together[1:]:
                self.join(task, together[0])
        if rules.contiguous:
            # What lies between two tasks of a convex piece is in the piece.
            for component in list(nx.strongly_connected_components(self.order_graph())):
                first, *others = sorted(component)
                for other in others:
                    self.join(other, first)
        while contract and self.join_neighbours():
            pass
        return self.numbered(device_ids)

    def order_graph(self) -> nx.DiGraph[str]:
        order: nx.DiGraph[str] = nx.DiGraph()
        order.add_nodes_from(dict.fromkeys(self.find(task) for task in self.tasks))
        backward = self.problem.rules.backward
        for source, target in self.problem.graph.edges:
            a, b = self.find(source), self.find(target)
            if a != b and source not in backward and target not in backward:
                order.add_edge(a, b)
        return order

    def members(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for task in self.tasks:
            groups.setdefault(self.find(task), []).append(task)
        return groups

    def totals(self, tasks: list[str]) -> tuple[float, float, float]:
        """Time on a host, time on an accelerator, bytes."""
        times, sizes = self.problem.times_s, self.problem.rules.sizes_bytes
        host = sum(times[t][self.hosts[0]] for t in tasks) if self.hosts else inf
        accelerator = sum(times[t][self.accelerators[0]] for t in tasks) if self.accelerators else inf
        return host, accelerator, sum(sizes.get(t, 0.0) for t in tasks)

    def join_neighbours(self) -> bool:
        """One round of joins that lose no optimum; False when there was none."""
        graph = self.problem.graph
        joined = False
        stale: set[str] = set()
        groups = self.members()
        totals = {root: self.totals(tasks) for root, tasks in groups.items()}
        for root, tasks in groups.items():
            host, accelerator, size = totals[root]
            if host > 0 or accelerator == inf or not (size == 0 or self.fits):
                continue
            inside = set(tasks)
            fed = {p for t in tasks for p in graph.predecessors(t) if p not in inside}
            read = {self.find(s) for t in tasks for s in graph.successors(t) if s not in inside}
            made = [t for t in tasks if any(s not in inside for s in graph.successors(t))]
            sources = {self.find(p) for p in fed}
            target = None
            if not fed and len(read) == 1 and accelerator <= sum(self.costs[t] for t in made):
                target = next(iter(read))
            elif not made and len(fed) == 1 and accelerator == 0:
                target = next(iter(sources))
            elif len(fed) == 1 and len(made) == 1 and accelerator == 0:
                arriving, leaving = self.costs[next(iter(fed))], self.costs[made[0]]
                only = all(s in inside for s in graph.successors(next(iter(fed))))
                if only and arriving >= leaving:
                    target = next(iter(sources))
                elif len(read) == 1 and arriving <= leaving:
                    target = next(iter(read))
            touched = {root, *sources, *read}
            if target is None or touched & stale:
                continue
            stale |= touched
            self.join(root, target)
            joined = True
        return joined

    def numbered(self, device_ids: tuple[str, ...]) -> OffloadInstance:
        groups = self.members()
        order = self.order_graph()
        is_acyclic = nx.is_directed_acyclic_graph(order)
        roots = list(nx.topological_sort(order)) if is_acyclic else list(groups)
        number = {root: i for i, root in enumerate(roots)}
        home = {task: number[self.find(task)] for task in self.tasks}
        nets = []
        for task in self.tasks:
            readers = sorted({home[s] for s in self.problem.graph.successors(task)} - {home[task]})
            if readers and self.costs[task] > 0:
                nets.append(Net(home[task], tuple(readers), self.costs[task]))
        totals = [self.totals(groups[root]) for root in roots]
        for root, (host, accelerator, _) in zip(roots, totals, strict=True):
            if host == inf and accelerator == inf:
                raise InfeasibleProblem(f"no device can run {', '.join(groups[root][:3])} together")
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
            steps=self.steps(home),
        )

    def steps(self, home: Mapping[str, int]) -> tuple[OffloadStep, ...]:
        """Tasks in order; not those that are there from the start and only read within their group."""
        graph, times = self.problem.graph, self.problem.times_s
        kept: dict[str, int] = {}
        for task in self.tasks:
            host = times[task][self.hosts[0]] if self.hosts else inf
            inner = all(home[s] == home[task] for s in graph.successors(task))
            if host > 0 or graph.pred[task] or not inner:
                kept[task] = len(kept)
        return tuple(
            OffloadStep(
                home[task],
                times[task][self.hosts[0]] if self.hosts else inf,
                times[task][self.accelerators[0]] if self.accelerators else inf,
                tuple(kept[p] for p in graph.predecessors(task) if p in kept),
                tuple(kept[t] for t in graph.successors(task)),
            )
            for task in kept
        )


def _cost(problem: Problem, task: str, hosts: list[int], accelerators: list[int]) -> float:
    """What it takes to move a task's output between an accelerator and the host: the same for every reader."""
    if not accelerators or not hosts:
        return 0.0
    device, host = problem.devices[accelerators[0]].id, problem.devices[hosts[0]].id
    sizes = {size for _, _, data in problem.graph.out_edges(task, data=True) for size in data["tensors"].values()}
    return max((problem.transfer_time(size, device, host) for size in sizes), default=0.0)
