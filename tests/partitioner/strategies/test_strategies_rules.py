"""Every strategy on every kind of problem: rules kept, bounds not beaten, the exact one as good as trying all."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.partitioner.segments.test_convex_cut import problems
from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.partitioner import strategies
from trisect.partitioner.strategies import names, propose
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal, simple_bound
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Rules
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


def best_makespan(problem: Problem) -> float:
    """List scheduling on equal processors reaches the optimum for some order of the tasks."""
    best = float("inf")
    for order in permutations(problem.graph):
        position = {node: i for i, node in enumerate(order)}
        if any(position[a] > position[b] for a, b in problem.graph.edges):
            continue
        free, finish = [0.0] * len(problem.devices), {}
        for node in order:
            begin = max([free[0], *(finish[p] for p in problem.graph.predecessors(node))])
            finish[node] = begin + problem.times_s[node][0]
            # Whichever processor frees last before `begin` leaves the others for earlier tasks.
            chosen = max((d for d in range(len(free)) if free[d] <= begin), key=lambda d: free[d])
            free[chosen] = finish[node]
            free.sort()
        best = min(best, max(finish.values()))
    return best


ANY = st.one_of(
    problems(largest=7).map(lambda case: case[0]),
    task_problems(),
    offload_problems("throughput", training=True),
    offload_problems("throughput", contiguous=True),
    offload_problems("latency"),
)


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=25, deadline=None)
@given(problem=ANY)
def test_quick_strategies_keep_all_rules_and_beat_no_bound(name: str, problem: Problem) -> None:
    try:
        result = propose(problem, name)
    except InfeasibleProblem:
        return  # a rule of thumb may find nothing that fits
    evaluation = evaluate_proposal(problem, result)
    if name == "single" and problem.rules.convention == "offload":
        return  # says what was asked for, and is then refused
    assert evaluation.violations == ()
    assert evaluation.value >= simple_bound(problem) - 1e-9


@pytest.mark.parametrize("name", sorted(SEARCHING))
@settings(max_examples=6, deadline=None)
@given(problem=ANY)
def test_searching_strategies_keep_all_rules_and_beat_no_bound(name: str, problem: Problem) -> None:
    result = propose(problem, name, time_limit_s=0.3)
    evaluation = evaluate_proposal(problem, result)
    assert evaluation.violations == ()
    assert evaluation.value >= max(result.bound, simple_bound(problem)) - 1e-6


@settings(max_examples=25, deadline=None)
@given(problems(largest=6, devices=2))
def test_exact_is_the_best_of_all_segments(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    every = product(problem.device_ids, repeat=len(problem.graph))
    best = min(value_of(problem, dict(zip(problem.graph, where, strict=True))) for where in every)
    result = propose(problem, "exact", time_limit_s=5)
    assert evaluate_proposal(problem, result).value == pytest.approx(best)
    assert result.bound == pytest.approx(best)


@settings(max_examples=15, deadline=None)
@given(task_problems(largest=6))
def test_exact_is_the_best_schedule_of_tasks(problem: Problem) -> None:
    result = propose(problem, "exact", time_limit_s=1)
    assert evaluate_proposal(problem, result).value == pytest.approx(best_makespan(problem))
    assert result.bound == pytest.approx(best_makespan(problem))


@settings(max_examples=20, deadline=None)
@given(problems(largest=6, devices=2))
def test_the_proof_for_segments_is_no_proof_of_too_much(case: tuple[Problem, dict[str, str]]) -> None:
    from dataclasses import replace

    from trisect.scheduler.bounds.exact_makespan import solve_task_schedule

    for objective in ("latency", "throughput"):
        problem = replace(case[0], objective=objective)
        every = [
            dict(zip(problem.graph, w, strict=True)) for w in product(problem.device_ids, repeat=len(problem.graph))
        ]
        best = min(value_of(problem, placement) for placement in every)
        start = every[0]
        assert solve_task_schedule(problem, start, value_of(problem, start), 1.0, 0).bound <= best + 1e-6


@settings(max_examples=30, deadline=None)
@given(problems(largest=6, devices=2))
def test_mincut_is_the_least_time_in_all(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case

    def total(placement: dict[str, str]) -> float:
        moved = {}
        for source, target, data in problem.graph.edges(data=True):
            for tensor, size in data["tensors"].items():
                moved[tensor, placement[target]] = problem.transfer_time(size, placement[source], placement[target])
        return sum(problem.time(t, d) for t, d in placement.items()) + sum(moved.values())

    every = product(problem.device_ids, repeat=len(problem.graph))
    best = min(total(dict(zip(problem.graph, where, strict=True))) for where in every)
    assert total(dict(propose(problem, "mincut").placement)) == pytest.approx(best)


@settings(max_examples=20, deadline=None)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_dp_chain_is_never_better_than_the_optimum(problem: Problem) -> None:
    try:
        result = propose(problem, "dp-chain")
    except InfeasibleProblem:
        return
    assert evaluate_proposal(problem, result).value >= best_of_all(problem) - 1e-9


def test_the_same_seed_gives_the_same_placement() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([(f"n{i}", f"n{i + 1}") for i in range(30)])
    devices = [Device("cpu:0", "cpu", "t", ""), Device("gpu:0", "gpu", "t", "")]
    problem = Problem.of(graph, devices, lambda n, d: 1.0, Platform(default_link=LinkCost(0.5)))
    drawn = [propose(problem, "random", seed=seed).placement for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    planned = [propose(problem, "auto", seed=1).placement for _ in range(2)]
    assert planned[0] == planned[1]
