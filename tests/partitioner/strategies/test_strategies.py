"""Every strategy on every kind of problem: rules satisfied, bounds respected, names, seeds."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import (
    ANY,
    QUICK,
    SEARCHING,
    all_values,
    chain,
    constrained_problems,
    placed,
    violates_by_hand,
)
from trisect.partitioner.strategies import UnknownStrategy, names, propose, strategy
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal, simple_bound
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.validate import validate_placement

CPU, CPU2 = Device("cpu:a", "cpu", "a", ""), Device("cpu:b", "cpu", "b", "")


GPU, NPU = Device("gpu:a", "gpu", "a", ""), Device("npu:a", "npu", "a", "")


@settings(max_examples=40)
@given(problems())
def test_every_strategy_gives_a_valid_placement(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    for name in ("single", "single:gpu:b", "opclass", "auto"):
        assert validate_placement(problem, placed(problem, name)) == []


def test_names_and_refusals() -> None:
    assert {"auto", "single", "opclass"} <= set(names())
    problem = Problem.of(chain(OpClass.CONV), [CPU], lambda n, d: 1.0)
    with pytest.raises(UnknownStrategy, match="did you mean opclass"):
        placed(problem, "opclas")
    with pytest.raises(UnknownStrategy, match="takes no argument"):
        placed(problem, "heft:cpu:a")
    with pytest.raises(UnknownDevice, match="gpu:a"):
        placed(problem, "single:gpu:a")


def test_the_proposal_of_a_registered_strategy_is_validated() -> None:
    @strategy("test-careless")
    def careless(problem: Problem) -> dict[str, str]:
        return {}

    problem = Problem.of(chain(OpClass.CONV), [CPU], lambda n, d: 1.0)
    violations = evaluate_proposal(problem, propose(problem, "test-careless")).violations
    assert [violation.message for violation in violations] == ["n0 has no device"]


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=25)
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
@settings(max_examples=6)
@given(problem=ANY)
def test_searching_strategies_keep_all_rules_and_beat_no_bound(name: str, problem: Problem) -> None:
    result = propose(problem, name, time_limit_s=0.3)
    evaluation = evaluate_proposal(problem, result)
    assert evaluation.violations == ()
    assert evaluation.value >= max(result.bound, simple_bound(problem)) - 1e-6


def test_the_same_seed_gives_the_same_placement() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([(f"n{i}", f"n{i + 1}") for i in range(30)])
    devices = [Device("cpu:0", "cpu", "t", ""), Device("gpu:0", "gpu", "t", "")]
    problem = Problem.of(graph, devices, lambda n, d: 1.0, Platform(default_link=LinkCost(0.5)))
    drawn = [propose(problem, "random", seed=seed).placement for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    planned = [propose(problem, "auto", seed=1).placement for _ in range(2)]
    assert planned[0] == planned[1]


@pytest.mark.parametrize("name", [*QUICK, *sorted(SEARCHING)])
@settings(max_examples=12)
@given(problem=constrained_problems())
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
    assert not violates_by_hand(problem, dict(result.placement)) or result.parts is not None
    assert evaluation.value >= max(result.bound, simple_bound(problem)) * (1 - 1e-6)


def devices() -> list[object]:
    from tests.partitioner.segments.test_convex_cut import DEVICES

    return list(DEVICES[:2])


def test_searches_with_the_same_seed_give_the_same_placement() -> None:
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph([(f"n{i}", f"n{i + 1 + i % 3}") for i in range(25)])
    times = {n: {"cpu:a": 1.0 + int(n[1:]) % 5, "gpu:b": 3.0 - int(n[1:]) % 3} for n in graph}
    platform = Platform(default_link=LinkCost(0.7), call_overhead_s={"cpu:a": 0.3, "gpu:b": 0.3})
    problem = Problem.of(graph, devices(), times, platform)
    for name in ("local-search", "annealing", "genetic", "auto", "exact"):
        result = [propose(problem, name, time_limit_s=0.5, seed=3) for _ in range(2)]
        assert not any(proposal.is_cut_short for proposal in result)
        assert result[0].placement == result[1].placement, name
        assert result[0].bound == result[1].bound, name
