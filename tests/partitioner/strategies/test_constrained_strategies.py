"""Random constraints on random graphs: each strategy keeps them all or says that it cannot; exact ones are exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.test_strategies_rules import QUICK, SEARCHING
from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints
from trisect.partitioner.segments.convex_cut import cut, divide
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import certificate, evaluate_proposal, simple_bound
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.bounds.segment_slots import solve_segments
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.simulate import evaluate
from trisect.scheduler.simulation.validate import validate_parts

OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy", "memory")
POWER_W = {"cpu:a": 15.0, "gpu:b": 40.0, "npu:c": 4.0}


@st.composite
def weighed(draw: st.DrawFn, largest: int = 7, devices: int = 2) -> Problem:
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
def demanding(draw: st.DrawFn, largest: int = 7) -> Problem:
    """The same with random demands that do not contradict each other outright."""
    problem = draw(weighed(largest=largest))
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


def broken_by_hand(problem: Problem, placement: dict[str, str]) -> bool:
    """Whether a placement breaks a rule, found out without the validator; memory by weights alone."""
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
    """Of every placement that breaks no rule."""
    every = (
        dict(zip(problem.graph, where, strict=True)) for where in product(problem.device_ids, repeat=len(problem.graph))
    )
    evaluations = [evaluate_proposal(problem, Proposal(placement)) for placement in every]
    return [evaluation.value for evaluation in evaluations if not evaluation.violations]


@pytest.mark.parametrize("name", [*QUICK, *sorted(SEARCHING)])
@settings(max_examples=12, deadline=None)
@given(problem=demanding())
def test_every_strategy_keeps_every_constraint_and_beats_no_bound(name: str, problem: Problem) -> None:
    try:
        result = propose(problem, name, time_limit_s=0.2)
    except InfeasibleProblem:
        if name in ("auto", "exact"):
            assert all_values(problem) == []
        return
    evaluation = evaluate_proposal(problem, result)
    if name == "single" and evaluation.violations:
        return  # says what was asked for, and is then refused
    assert evaluation.violations == ()
    assert not broken_by_hand(problem, dict(result.placement)) or result.parts is not None
    assert evaluation.value >= max(result.bound, simple_bound(problem)) * (1 - 1e-6)


@settings(max_examples=40, deadline=None)
@given(weighed(largest=6))
def test_no_placement_beats_the_bound_of_any_objective(problem: Problem) -> None:
    for objective in OBJECTIVES:
        asked = replace(problem, objective=objective)
        assert simple_bound(asked) <= min(all_values(asked)) * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(demanding(largest=6))
def test_exact_is_the_best_of_all_for_every_objective_and_constraint(problem: Problem) -> None:
    values = all_values(problem)
    if not values:
        with pytest.raises(InfeasibleProblem):
            propose(problem, "exact")
        return
    result = propose(problem, "exact")
    assert evaluate_proposal(problem, result).value == pytest.approx(min(values))
    assert certificate(problem, result).value == pytest.approx(min(values))


@pytest.mark.parametrize("solver", ["cp", "milp"])
@settings(max_examples=12, deadline=None)
@given(problem=weighed(largest=5))
def test_both_solvers_prove_what_trying_all_cuts_finds(solver: str, problem: Problem) -> None:
    best = min(all_values(problem))
    segments = solve_segments(problem, None, inf, 20.0, 0, solver)  # type: ignore[arg-type]
    assert segments is not None
    assert segments.parts is not None
    assert validate_parts(problem, segments.placement, segments.parts) == []
    assert segments.bound <= best * (1 + 1e-6)
    # Every cut is looked at, not only those that a placement is usually cut into: it may be better, never worse.
    if problem.objective != "memory":  # whose tensors the solvers leave out
        assert evaluate_proposal(problem, segments).value <= best * (1 + 1e-4)
    if problem.objective in ("throughput", "energy"):
        assert segments.bound == pytest.approx(evaluate_proposal(problem, segments).value, rel=1e-3)


@settings(max_examples=12, deadline=None)
@given(demanding(largest=5))
def test_the_solver_says_impossible_only_where_it_is(problem: Problem) -> None:
    try:
        solve_segments(problem, None, inf, 20.0, 0, "cp")
    except InfeasibleProblem:
        assert all_values(problem) == []


def test_the_same_seed_finds_the_same_however_long_it_takes() -> None:
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph([(f"n{i}", f"n{i + 1 + i % 3}") for i in range(25)])
    times = {n: {"cpu:a": 1.0 + int(n[1:]) % 5, "gpu:b": 3.0 - int(n[1:]) % 3} for n in graph}
    platform = Platform(default_link=LinkCost(0.7), call_overhead_s={"cpu:a": 0.3, "gpu:b": 0.3})
    problem = Problem.of(graph, devices(), times, platform)
    for name in ("local-search", "annealing", "genetic", "auto", "exact"):
        result = [propose(problem, name, time_limit_s=2, seed=3) for _ in range(2)]
        if not any(proposal.is_cut_short for proposal in result):
            assert result[0].placement == result[1].placement, name
            assert result[0].bound == result[1].bound, name


def devices() -> list[object]:
    from tests.partitioner.segments.test_convex_cut import DEVICES

    return list(DEVICES[:2])


@settings(max_examples=30, deadline=None)
@given(problems(largest=8))
def test_a_known_cut_is_used_where_it_is_better(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    whole = cut(problem.graph, placement)
    divided = divide(problem.graph, whole)
    values = [evaluate_proposal(problem, Proposal(placement, parts=tuple(parts))).value for parts in (whole, divided)]
    assert min(values) == pytest.approx(min(evaluate(problem, whole)[0], evaluate(problem, divided)[0]))
    wrong = tuple(reversed(whole)) + tuple(whole)
    assert (
        evaluate_proposal(problem, Proposal(placement, parts=wrong)).value
        == evaluate_proposal(problem, Proposal(placement)).value
    )
