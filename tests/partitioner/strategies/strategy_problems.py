"""Random problems of every convention, with and without constraints, and their optima by enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path

import networkx as nx
from hypothesis import strategies as st

from tests.partitioner.segments.test_convex_cut import problems
from tests.scheduler.offload.offload_cases import offload_problems
from trisect.partitioner import strategies
from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints
from trisect.partitioner.strategies import names, propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules
from trisect.scheduler.problem.solution import Proposal

SEARCHING = {"auto", "exact", "annealing", "genetic", "local-search"}


QUICK = sorted(
    {path.stem.replace("_", "-") for path in Path(strategies.__path__[0]).rglob("*.py")} & set(names()) - SEARCHING
)


def value_of(problem: Problem, placement: dict[str, str]) -> float:
    return evaluate_proposal(problem, Proposal(placement)).value


@st.composite
def task_problems(draw: st.DrawFn, largest: int = 8) -> Problem:
    """Equal processors, nothing to transfer."""
    count = draw(st.integers(1, largest))
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(f"n{i}" for i in range(count))
    for j in range(1, count):
        graph.add_edges_from((f"n{i}", f"n{j}") for i in draw(st.sets(st.integers(0, j - 1), max_size=2)))
    times = {node: float(draw(st.integers(0, 9))) for node in graph}
    devices = [Device(f"cpu:{i}", "cpu", "t", "") for i in range(draw(st.integers(1, 3)))]
    return Problem.of(graph, devices, lambda n, d: times[n], rules=Rules(convention="tasks"))


ANY = st.one_of(
    problems(largest=7).map(lambda case: case[0]),
    task_problems(),
    offload_problems("throughput", training=True),
    offload_problems("throughput", contiguous=True),
    offload_problems("latency"),
)


OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy", "memory")


POWER_W = {"cpu:a": 15.0, "gpu:b": 40.0, "npu:c": 4.0}


@st.composite
def weighted_problems(draw: st.DrawFn, largest: int = 7, devices: int = 2) -> Problem:
    """A random problem with power and weights."""
    problem, _ = draw(problems(largest=largest, devices=devices))
    sizes = {task: float(draw(st.integers(0, 900))) for task in problem.graph}
    return replace(
        problem,
        objective=draw(st.sampled_from(OBJECTIVES)),
        rules=Rules(sizes_bytes=sizes),
        platform=replace(problem.platform, power_w={device: POWER_W[device] for device in problem.device_ids}),
    )


@st.composite
def constrained_problems(draw: st.DrawFn, largest: int = 7) -> Problem:
    """A weighted problem with random constraints that are not trivially infeasible."""
    problem = draw(weighted_problems(largest=largest))
    tasks, ids = list(problem.graph), problem.device_ids
    total = int(sum(problem.rules.sizes_bytes.values()))
    groups = (
        draw(st.lists(st.lists(st.sampled_from(tasks), min_size=2, max_size=3, unique=True), max_size=2))
        if len(tasks) > 2
        else []
    )
    constraints = Constraints(
        force=draw(st.dictionaries(st.sampled_from(tasks), st.sampled_from(ids), max_size=2)),
        colocate=tuple(tuple(group) for group in groups),
        max_segments=draw(st.one_of(st.none(), st.integers(1, 4))),
        contiguous=draw(st.booleans()),
        memory={draw(st.sampled_from(ids)): draw(st.integers(1, 2 * total + 1000))} if draw(st.booleans()) else {},
    )
    try:
        return constrained(problem, constraints)
    except InfeasibleProblem:
        return constrained(problem, Constraints(max_segments=constraints.max_segments))


def violates_by_hand(problem: Problem, placement: dict[str, str]) -> bool:
    """Return whether a placement violates a rule, computed without the validator; memory by weights alone."""
    rules, parts = problem.rules, evaluate_proposal(problem, Proposal(placement)).parts
    counts = {device: sum(part.device == device for part in parts) for device in problem.device_ids}
    held = {d: sum(rules.sizes_bytes[t] for t in placement if placement[t] == d) for d in problem.device_ids}
    return (
        any(problem.time(task, device) == inf for task, device in placement.items())
        or any(len({placement[task] for task in group}) > 1 for group in rules.colocated)
        or len(parts) > (rules.max_segments or len(parts))
        or (rules.contiguous and max(counts.values()) > 1)
        or any(d.memory_bytes is not None and held[d.id] > d.memory_bytes for d in problem.devices)
    )


def all_values(problem: Problem) -> list[float]:
    """Return the value of every placement without violations."""
    every = (
        dict(zip(problem.graph, where, strict=True)) for where in product(problem.device_ids, repeat=len(problem.graph))
    )
    evaluations = [evaluate_proposal(problem, Proposal(placement)) for placement in every]
    return [evaluation.value for evaluation in evaluations if not evaluation.violations]


def work(op_class: OpClass, size: int = 10**7) -> OpFeatures:
    return OpFeatures("Op", op_class, float(size), size, size, 0, "float32")


def chain(*classes: OpClass, size: int = 10**7) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for i, op_class in enumerate(classes):
        graph.add_node(f"n{i}", features=work(op_class, size))
        if i:
            graph.add_edge(f"n{i - 1}", f"n{i}", tensors={f"t{i}": 1000})
    return graph


def placed(problem: Problem, name: str) -> dict[str, str]:
    return dict(propose(problem, name, time_limit_s=0.3).placement)
