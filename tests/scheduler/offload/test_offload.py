"""Solvers of the offload convention against brute force, and a definition worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import best_of_all, by_way_of_host, offload_problems
from trisect.runtime.device import Device
from trisect.scheduler.offload.call_latency import anneal_calls, latency
from trisect.scheduler.offload.cp_models import improve_loads
from trisect.scheduler.offload.downsets import best_chain
from trisect.scheduler.offload.load_annealing import DeviceLoads
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import device_loads, offload_value, offload_violations
from trisect.scheduler.offload.packing_bound import load_bound
from trisect.scheduler.offload.path_bound import path_bound
from trisect.scheduler.offload.pipeline_chain import best_intervals, depth_first_order
from trisect.scheduler.offload.portfolio import solve_offload
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules
from trisect.scheduler.problem.search_time_limit import TimeLimit


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


def test_loads_by_hand() -> None:
    # npu:0 runs a and b and sends both; npu:1 fetches a and b once each, runs c and d.
    placement = {"a": "npu:0", "b": "npu:0", "c": "npu:1", "d": "npu:1"}
    assert device_loads(diamond(), placement) == {"cpu:0": 0.0, "npu:0": 6 + 1 + 10, "npu:1": 6 + 1 + 10}
    # Two readers on one device: the host's a is fetched once by npu:0.
    placement = {"a": "cpu:0", "b": "npu:0", "c": "npu:0", "d": "npu:0"}
    assert device_loads(diamond(), placement) == {"cpu:0": 100.0, "npu:0": 9 + 1, "npu:1": 0.0}


def test_latency_by_hand() -> None:
    problem = replace(diamond(), objective="latency")
    # a done at 100, then npu:0: fetch 1, b, send 10 = 114; c on the host at 200; npu:1: fetch 20, d 3.
    placement = {"a": "cpu:0", "b": "npu:0", "c": "cpu:0", "d": "npu:1"}
    assert offload_value(problem, placement) == 200 + 20 + 3
    assert offload_value(problem, dict.fromkeys("abcd", "cpu:0")) == 300


def test_each_planted_fault_is_found() -> None:
    def kinds(problem: Problem, placement: dict[str, str]) -> list[str]:
        return [v.kind for v in offload_violations(problem, placement)]

    good = {"a": "npu:0", "b": "npu:0", "c": "npu:1", "d": "npu:1"}
    assert kinds(diamond(contiguous=True, colocated=(("a", "b"),)), good) == []
    assert kinds(diamond(colocated=(("a", "c"),)), good) == ["apart"]
    assert kinds(diamond(), {**good, "d": "npu:7"}) == ["unknown"]
    assert kinds(diamond(), {"a": "npu:0"}) == ["unplaced"] * 3
    torn = {"a": "npu:0", "b": "npu:1", "c": "npu:1", "d": "npu:0"}
    assert kinds(diamond(), torn) == []
    assert kinds(diamond(contiguous=True), torn) == ["cycle"]
    assert kinds(replace(diamond(), objective="latency"), torn) == ["cycle"]
    assert kinds(diamond(contiguous=True, backward=frozenset("d")), torn) == []
    problem = diamond()
    heavy = replace(problem, rules=replace(problem.rules, sizes_bytes={"a": 3.0, "b": 3.0}))
    assert kinds(heavy, good) == ["memory"]


@settings(max_examples=60, deadline=None)
@given(offload_problems("throughput", training=True), st.randoms(use_true_random=False))
def test_incrementally_updated_loads_equal_the_definition(problem: Problem, random: Random) -> None:
    instance = make_instance(problem, contract=False)
    state = DeviceLoads(instance, [0] * instance.count)
    for _ in range(20):
        group, target = random.randrange(instance.count), random.randrange(instance.devices)
        if target >= instance.hosts and instance.acc_time[group] == float("inf"):
            continue
        if state.where[group] != target:
            state.move(group, target, *state.change(group, target))
        expected = device_loads(problem, instance.to_placement(state.where))
        assert state.load == pytest.approx([expected[d] for d in instance.device_ids])


@settings(max_examples=60, deadline=None)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_downsets_find_the_best_pipeline(problem: Problem) -> None:
    instance = make_instance(problem)
    finished, value, where = best_chain(instance, 1e6, TimeLimit(60))
    assert finished
    assert where is not None
    assert offload_violations(problem, instance.to_placement(where)) == []
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(value)
    assert value == pytest.approx(best_of_all(problem))


@settings(max_examples=25, deadline=None)
@given(offload_problems("throughput", contiguous=True, training=True))
def test_the_model_of_pipelines_finds_the_best_as_well(problem: Problem) -> None:
    instance = make_instance(problem)
    start = best_intervals(instance, depth_first_order(instance))
    if start is None:
        return
    where, bound = improve_loads(instance, start[1], start[0], 0.0, TimeLimit(20), 10, 0, contiguous=True)
    assert offload_violations(problem, instance.to_placement(where)) == []
    optimum = best_of_all(problem)
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(optimum)
    assert optimum - 1e-6 * max(1, optimum) <= bound <= optimum + 1e-9


@settings(max_examples=40, deadline=None)
@given(offload_problems("throughput", contiguous=True))
def test_a_chain_says_what_it_is_worth(problem: Problem) -> None:
    instance = make_instance(problem)
    intervals = best_intervals(instance, depth_first_order(instance))
    if intervals is not None:
        assert offload_violations(problem, instance.to_placement(intervals[1])) == []
        assert offload_value(problem, instance.to_placement(intervals[1])) == pytest.approx(intervals[0])


@settings(max_examples=15, deadline=None)
@given(st.one_of(offload_problems("throughput"), offload_problems("throughput", contiguous=True, training=True)))
def test_throughput_is_solved_to_the_optimum(problem: Problem) -> None:
    _check_exact(problem)


@settings(max_examples=15, deadline=None)
@given(offload_problems("latency"))
def test_latency_is_solved_to_the_optimum(problem: Problem) -> None:
    _check_exact(problem)


def _check_exact(problem: Problem) -> None:
    optimum = best_of_all(problem)
    solution = solve_offload(problem, 1.0, seed=0)
    assert offload_violations(problem, solution.placement) == []
    assert offload_value(problem, solution.placement) == pytest.approx(optimum, abs=1e-6)
    assert solution.bound <= optimum + 1e-6


@settings(max_examples=40, deadline=None)
@given(offload_problems("throughput"))
def test_nothing_beats_the_load_bound(problem: Problem) -> None:
    assert load_bound(make_instance(problem)) <= best_of_all(problem) + 1e-9


@settings(max_examples=150, deadline=None)
@given(offload_problems("latency"), st.booleans())
def test_nothing_beats_the_path_bound(problem: Problem, contract: bool) -> None:
    assert path_bound(make_instance(problem, contract=contract)) <= best_of_all(problem) + 1e-9


@settings(max_examples=60, deadline=None)
@given(offload_problems("latency", chain=True))
def test_the_path_bound_is_the_optimum_of_a_chain(problem: Problem) -> None:
    assert path_bound(make_instance(problem, contract=False)) == pytest.approx(best_of_all(problem))


def test_packing_refutes_what_sums_cannot() -> None:
    # Seven equal tasks on three accelerators: 7 / 3 on average, but one of them gets three.
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(f"n{i}" for i in range(7))
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "") for i in range(3))]
    problem = Problem.of(
        graph,
        devices,
        lambda node, device: 50.0 if device == "cpu:0" else 1.0,
        objective="throughput",
        rules=Rules(convention="offload"),
    )
    assert load_bound(make_instance(problem)) == pytest.approx(3.0)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_the_same_seed_gives_the_same_answer(objective: Objective) -> None:
    random = Random(5)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for i in range(1, 40):
        for j in random.sample(range(i), min(i, 2)):
            graph.add_edge(f"n{j}", f"n{i}", tensors={f"t{j}": 1 + j % 4})
    times = {name: {"cpu:0": random.uniform(20, 60), "npu:0": random.uniform(1, 5)} for name in graph}
    devices = [Device("cpu:0", "cpu", "t", ""), *(Device(f"npu:{i}", "npu", "t", "") for i in range(3))]
    problem = Problem.of(
        graph,
        devices,
        lambda node, device: times[node]["cpu:0" if device == "cpu:0" else "npu:0"],
        by_way_of_host(devices),
        objective=objective,
        rules=Rules(convention="offload"),
    )
    first, second = (solve_offload(problem, 3.0, seed=1) for _ in range(2))
    assert first.is_cut_short or second.is_cut_short or first == second


@settings(max_examples=40, deadline=None)
@given(offload_problems("latency", largest=5))
def test_calls_are_timed_as_defined(problem: Problem) -> None:
    instance = make_instance(problem)
    value, where = anneal_calls(instance, [0] * instance.count, Random(0), TimeLimit(60), 500)
    assert offload_violations(problem, instance.to_placement(where)) == []
    assert offload_value(problem, instance.to_placement(where)) == pytest.approx(value)
    assert latency(instance, where) == pytest.approx(value)


@settings(max_examples=60, deadline=None)
@given(st.one_of(offload_problems("throughput"), offload_problems("latency")))
def test_contracting_loses_no_optimum(problem: Problem) -> None:
    whole, contracted = make_instance(problem, contract=False), make_instance(problem)
    assert contracted.count <= whole.count

    def best(instance: object) -> float:
        from itertools import product

        result = []
        for where in product(range(contracted.devices), repeat=instance.count):  # type: ignore[attr-defined]
            placement = instance.to_placement(where)  # type: ignore[attr-defined]
            if not offload_violations(problem, placement):
                result.append(offload_value(problem, placement))
        return min(result)

    assert best(contracted) == pytest.approx(best(whole))
