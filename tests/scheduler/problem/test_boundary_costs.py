"""What crosses between parts costs them: against sums written out, and against all placements of small problems."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import networkx as nx
import pytest

from trisect.partitioner.segments.convex_cut import cut
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import certificate, evaluate_proposal
from trisect.profiles.costmodel.call_costs import WakeupCosts
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.runtime.device import Device
from trisect.scheduler.bounds.segment_slots import solve_segments
from trisect.scheduler.problem.boundary_costs import BoundaryCost, BoundarySides
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem, crossing_time_s
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.part_times import boundary_time_s, loads_s, placement_of
from trisect.scheduler.simulation.simulate import evaluate, simulate
from trisect.scheduler.simulation.validate import validate_schedule

A, B = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")
BOUNDARY_COSTS = {"t": BoundaryCost((1.0, 2.0), (4.0, 8.0)), "u": BoundaryCost((16.0, 32.0), (64.0, 128.0))}


@pytest.fixture
def problem() -> Problem:
    """x makes t for y and z, y makes u for z."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 100})
    graph.add_edge("x", "z", tensors={"t": 100})
    graph.add_edge("y", "z", tensors={"u": 100})
    platform = Platform(default_link=LinkCost(0.5), power_w={A.id: 1, B.id: 3})
    return Problem.of(graph, [A, B], lambda task, device: 1000.0, platform, boundary_costs=BOUNDARY_COSTS)


def drawn(seed: int, objective: Objective) -> Problem:
    """Six tasks of random times, edges, transfers and borders."""
    lot = random.Random(seed)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from("abcdef")
    sizes = {task: lot.randrange(100) for task in graph}
    for source, target in itertools.combinations("abcdef", 2):
        if lot.random() < 0.4:
            graph.add_edge(source, target, tensors={f"of {source}": sizes[source]})
    made = Problem.of(
        graph, [A, B], {task: {d.id: lot.uniform(0.5, 3.0) for d in (A, B)} for task in graph},
        Platform(
            default_link=LinkCost(bytes_per_s=500), call_overhead_s={A.id: 0.1, B.id: 0.2},
            power_w={A.id: 2.0, B.id: 1.0},
        ), objective=objective,
    )  # fmt: skip
    pair = lambda: (lot.uniform(0, 1.0), lot.uniform(0, 1.0))  # noqa: E731
    return replace(made, boundary_costs={f"of {task}": BoundaryCost(pair(), pair()) for task in graph})


def test_a_tensor_is_paid_once_by_each_part_that_it_leaves_or_enters(problem: Problem) -> None:
    split = [Part(A.id, ("x",)), Part(B.id, ("y", "z"))]
    assert [boundary_time_s(problem, part, placement_of(split)) for part in split] == [1.0, 8.0]
    # Also between two parts of one device.
    three = [Part(A.id, ("x",)), Part(B.id, ("y",)), Part(A.id, ("z",))]
    assert [boundary_time_s(problem, part, placement_of(three)) for part in three] == [1.0, 8.0 + 32.0, 4.0 + 64.0]
    assert loads_s(problem, three) == {A.id: 2000.0 + 69.0, B.id: 1000.0 + 40.0}
    assert simulate(problem, split).latency_s == 1000.0 + 1.0 + 0.5 + 8.0 + 2000.0
    whole = Part(A.id, ("x", "y", "z"))
    assert boundary_time_s(problem, whole, placement_of([whole])) == 0.0


def test_moving_a_task_includes_its_boundary_costs(problem: Problem) -> None:
    assert problem.crossing_time("t", 100, A, B) == 1.0 + 0.5 + 8.0
    assert problem.crossing_time("t", 100, A, A) == 1.0 + 4.0  # between two parts of one device
    assert problem.crossing_time("other", 100, A, B) == 0.5
    there = {"x": A.id, "y": A.id, "z": B.id}
    assert crossing_time_s(problem, there, {"y"}, B.id) == 1.0 + 0.5 + 8.0
    assert crossing_time_s(problem, there, {"y"}, A.id) == 16.0 + 0.5 + 128.0


def test_a_schedule_without_boundary_costs_is_invalid(problem: Problem) -> None:
    parts = [Part(A.id, ("x",)), Part(B.id, ("y", "z"))]
    assert validate_schedule(problem, parts, simulate(problem, parts)) == []
    forgetful = simulate(replace(problem, boundary_costs={}), parts)
    assert {v.kind for v in validate_schedule(problem, parts, forgetful)} == {"duration"}


@pytest.mark.parametrize("objective", ["latency", "throughput", "energy"])
@pytest.mark.parametrize("seed", range(3))
def test_no_placement_is_below_what_is_said_to_be_proven(seed: int, objective: Objective) -> None:
    problem = drawn(seed, objective)
    every = [
        dict(zip(problem.graph, where, strict=True))
        for where in itertools.product((A.id, B.id), repeat=len(problem.graph))
    ]
    best = min(evaluate_proposal(problem, Proposal(placement)).value for placement in every)
    for placement in every:
        parts = cut(problem.graph, placement)
        assert validate_schedule(problem, parts, evaluate(problem, parts)[1]) == []
    parts = cut(problem.graph, every[0])
    solved = solve_segments(problem, parts, evaluate(problem, parts)[0], 2.0, 0, "cp")
    assert solved is not None
    assert solved.bound <= best * (1 + 1e-6)
    for name in ("heft", "peft", "mincut", "opclass", "balanced", "dp-chain", "auto"):
        result = propose(problem, name, time_limit_s=0.5)
        assert certificate(problem, result).value <= best * (1 + 1e-6)
        assert evaluate_proposal(problem, result).value >= best * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_solver_finds_the_best_pipeline_with_boundary_costs(seed: int) -> None:
    """One part for each device: the program then knows all that crosses."""
    loose = drawn(seed, "throughput")
    problem = replace(loose, rules=replace(loose.rules, contiguous=True))
    every = itertools.product((A.id, B.id), repeat=len(problem.graph))
    best = min(
        evaluate_proposal(problem, Proposal(dict(zip(problem.graph, where, strict=True)))).value for where in every
    )
    parts = cut(problem.graph, dict.fromkeys(problem.graph, A.id))
    solved = solve_segments(problem, parts, evaluate(problem, parts)[0], 2.0, 0, "cp")
    assert solved is not None
    assert evaluate_proposal(problem, solved).value == pytest.approx(best, rel=1e-3)
    assert solved.bound == pytest.approx(best, rel=1e-3)


def test_an_image_crosses_in_nhwc_only_where_all_devices_that_use_it_compute_in_it() -> None:
    """x on a makes an image for y and z; a and b compute in NHWC, c does not."""
    c = Device("npu:c", "npu", "c", "")
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edge("x", "y", tensors={"t": 1})
    graph.add_edge("x", "z", tensors={"t": 1})
    plain, nhwc = ((10.0, 20.0, 30.0), (40.0, 50.0, 60.0)), BoundarySides((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    cost = BoundaryCost(*plain, nhwc, frozenset({0, 1}))
    problem = Problem.of(graph, [A, B, c], lambda task, device: 1000.0, boundary_costs={"t": cost})
    assert problem.crossing_time("t", 1, A, B) == 1.0 + 5.0
    assert problem.crossing_time("t", 1, A, A) == 1.0 + 4.0
    assert problem.crossing_time("t", 1, A, c) == 10.0 + 60.0
    for z, expected in ((A.id, [1.0, 5.0, 4.0]), (B.id, [1.0, 5.0, 5.0]), (c.id, [10.0, 50.0, 60.0])):
        parts = [Part(A.id, ("x",)), Part(B.id, ("y",)), Part(z, ("z",))]
        assert [boundary_time_s(problem, part, placement_of(parts)) for part in parts] == expected
        assert validate_schedule(problem, parts, simulate(problem, parts)) == []
    # A reader in its producer's part is on its producer's device.
    parts = [Part(A.id, ("x", "y")), Part(B.id, ("z",))]
    assert [boundary_time_s(problem, part, placement_of(parts)) for part in parts] == [1.0, 5.0]


@pytest.mark.parametrize("objective", ["latency", "throughput", "energy"])
@pytest.mark.parametrize("seed", range(4))
def test_the_program_prices_every_cut_as_the_simulation_does(seed: int, objective: Objective) -> None:
    """All cuts of a small graph into segments, two of them on one device if that is best."""
    lot = random.Random(seed)
    graph = nx.DiGraph([("p", "q"), ("p", "r"), ("q", "s"), ("r", "s")])
    for source, target in graph.edges:
        graph.edges[source, target]["tensors"] = {f"of {source}": 100}
    times = {task: {d.id: lot.choice([1.0, 9.0]) for d in (A, B)} for task in graph}
    pair = lambda top: (lot.uniform(0, top), lot.uniform(0, top))  # noqa: E731
    costs = {}
    for task in graph:
        sides = BoundarySides(pair(1.0), pair(1.0))
        full = [tuple(map(sum, zip(pair(2.0), side, strict=True))) for side in (sides.leave_s, sides.enter_s)]
        costs[f"of {task}"] = BoundaryCost(full[0], full[1], sides, frozenset({lot.randrange(2), lot.randrange(2)}))
    platform = Platform(default_link=LinkCost(bytes_per_s=500), power_w={A.id: 2.0, B.id: 1.0})
    problem = Problem.of(graph, [A, B], times, platform, objective=objective, boundary_costs=costs)
    values = []
    for slots in itertools.product(range(4), repeat=4):
        slot = dict(zip("pqrs", slots, strict=True))
        if any(slot[a] > slot[b] for a, b in graph.edges):
            continue
        for devices in itertools.product((A.id, B.id), repeat=4):
            parts = [Part(devices[k], inside) for k in range(4) if (inside := tuple(t for t in "pqrs" if slot[t] == k))]
            values.append(evaluate(problem, parts)[0])
    best = min(values)
    parts = cut(problem.graph, dict.fromkeys(problem.graph, A.id))
    solved = solve_segments(problem, parts, evaluate(problem, parts)[0], 2.0, 0, "cp")
    assert solved is not None
    assert solved.parts is not None
    assert solved.bound <= best * (1 + 1e-6)
    assert solved.bound == pytest.approx(best, rel=1e-3)
    assert evaluate(problem, solved.parts)[0] == pytest.approx(best, rel=1e-3)


def test_high_boundary_costs_keep_a_chain_on_one_device() -> None:
    """By times alone each second task would go to the other device."""
    graph = nx.DiGraph(itertools.pairwise("abcd"))
    for source, target in graph.edges:
        graph.edges[source, target]["tensors"] = {f"of {source}": 1}
    times = {task: {A.id: 1.0 + i % 2, B.id: 2.0 - i % 2} for i, task in enumerate("abcd")}
    bare = Problem.of(graph, [A, B], times)
    dear = replace(bare, boundary_costs={f"of {task}": BoundaryCost((2.0, 2.0), (2.0, 2.0)) for task in "abc"})
    for name in ("heft", "mincut", "auto"):
        assert len(set(propose(bare, name).placement.values())) == 2
        assert len(set(propose(dear, name).placement.values())) == 1


def test_a_cold_call_takes_longer(problem: Problem) -> None:
    wakeup_costs = WakeupCosts({A.id: 1.0, B.id: 1.0}, {A.id: [(1000.0, 11.0), (2000.0, 31.0)], B.id: [(1000.0, 3.0)]})
    bare = replace(problem, boundary_costs={})
    cold = replace(bare, platform=replace(bare.platform, wakeup_costs=wakeup_costs))
    split = [Part(A.id, ("x",)), Part(B.id, ("y", "z"))]
    # Each waits for the other: cpu:a for two thousand seconds, gpu:b for one.
    assert simulate(cold, split).latency_s == simulate(bare, split).latency_s + 30.0 + 2.0
    alone = [Part(A.id, ("x", "y", "z"))]
    assert loads_s(cold, alone) == loads_s(bare, alone)
    assert validate_schedule(cold, split, simulate(cold, split)) == []
