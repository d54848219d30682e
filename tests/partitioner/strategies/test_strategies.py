"""Strategies keep every rule of the problem, and do what their names promise."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from trisect.partitioner.planning.placement_reasons import placed_tasks
from trisect.partitioner.segments.convex_cut import best_cut
from trisect.partitioner.strategies import UnknownStrategy, names, propose, strategy
from trisect.partitioner.strategies.common.placement_value import evaluate_proposal
from trisect.partitioner.strategies.rule_based.opclass import smooth
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.validate import validate_placement

CPU, CPU2 = Device("cpu:a", "cpu", "a", ""), Device("cpu:b", "cpu", "b", "")
GPU, NPU = Device("gpu:a", "gpu", "a", ""), Device("npu:a", "npu", "a", "")


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
    return dict(propose(problem, name).placement)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_every_strategy_gives_a_valid_placement(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    for name in ("single", "single:gpu:b", "opclass", "auto"):
        assert validate_placement(problem, placed(problem, name)) == []


@settings(max_examples=40, deadline=None)
@given(problems())
def test_auto_is_never_worse_than_a_single_device(case: tuple[Problem, dict[str, str]]) -> None:
    problem, _ = case
    value = best_cut(problem, placed(problem, "auto"))[1]
    for name in (*(f"single:{d}" for d in problem.device_ids), "opclass"):
        assert value <= best_cut(problem, placed(problem, name))[1]


@settings(max_examples=60, deadline=None)
@given(problems())
def test_smoothing_never_breaks_a_placement(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    assert validate_placement(problem, smooth(problem, placement)) == []


def test_the_rule_on_a_machine_that_has_all_three() -> None:
    classes = [OpClass.CONV, OpClass.ELEMENTWISE, OpClass.MATVEC, OpClass.NORM, OpClass.CONTROL_FLOW, OpClass.RECURRENT]
    problem = Problem.of(chain(*classes), [CPU, GPU, NPU], lambda n, d: 1.0)
    assert list(placed(problem, "opclass").values()) == ["gpu:a", "gpu:a", "npu:a", "npu:a", "cpu:a", "gpu:a"]


def test_small_work_stays_on_the_cpu() -> None:
    problem = Problem.of(chain(OpClass.CONV, size=100), [CPU, GPU], lambda n, d: 1.0)
    assert placed(problem, "opclass") == {"n0": "cpu:a"}


def test_measurements_decide_between_two_of_a_kind_and_for_a_kind_that_is_missing() -> None:
    classes = [OpClass.MATMUL, OpClass.MATVEC]
    times = {"n0": {"cpu:a": 2.0, "cpu:b": 1.0}, "n1": {"cpu:a": 1.0, "cpu:b": 2.0}}
    problem = Problem.of(chain(*classes), [CPU, CPU2], times)
    assert placed(problem, "opclass") == {"n0": "cpu:b", "n1": "cpu:a"}
    kinds: tuple[Kind, ...] = ("gpu", "gpu")
    gpus = [Device(f"gpu:{i}", kind, str(i), "") for i, kind in enumerate(kinds)]
    pair = Problem.of(chain(OpClass.CONV), [CPU, *gpus], lambda n, d: {"cpu:a": 1.0, "gpu:0": 3.0}.get(d, 2.0))
    assert placed(pair, "opclass") == {"n0": "gpu:1"}


def test_an_island_that_costs_more_than_it_gains_goes_back() -> None:
    classes = [OpClass.CONV, OpClass.MATVEC, OpClass.CONV]
    times = {"n0": {"gpu:a": 1.0}, "n1": {"gpu:a": 1.0, "npu:a": 0.5}, "n2": {"gpu:a": 1.0}}
    dear = Problem.of(chain(*classes), [GPU, NPU], times, Platform(default_link=LinkCost(1.0)))
    assert set(placed(dear, "opclass").values()) == {"gpu:a"}
    cheap = Problem.of(chain(*classes), [GPU, NPU], times, Platform(default_link=LinkCost(0.1)))
    assert placed(cheap, "opclass")["n1"] == "npu:a"


def test_what_the_wished_device_cannot_do_goes_elsewhere() -> None:
    problem = Problem.of(chain(OpClass.CONV), [CPU, GPU], {"n0": {"cpu:a": 9.0}})
    assert placed(problem, "opclass") == {"n0": "cpu:a"}
    assert placed(problem, "auto") == {"n0": "cpu:a"}
    with pytest.raises(InfeasibleProblem, match="gpu:a cannot run the whole"):
        placed(problem, "single:gpu:a")


def test_names_and_refusals() -> None:
    assert {"auto", "single", "opclass"} <= set(names())
    problem = Problem.of(chain(OpClass.CONV), [CPU], lambda n, d: 1.0)
    with pytest.raises(UnknownStrategy, match="did you mean opclass"):
        placed(problem, "opclas")
    with pytest.raises(UnknownStrategy, match="takes no argument"):
        placed(problem, "heft:cpu:a")
    with pytest.raises(UnknownDevice, match="gpu:a"):
        placed(problem, "single:gpu:a")


def test_a_strategy_of_someone_else_is_checked() -> None:
    @strategy("test-careless")
    def careless(problem: Problem) -> dict[str, str]:
        return {}

    problem = Problem.of(chain(OpClass.CONV), [CPU], lambda n, d: 1.0)
    violations = evaluate_proposal(problem, propose(problem, "test-careless")).violations
    assert [violation.message for violation in violations] == ["n0 has no device"]


def test_reasons_say_also_what_speaks_against_a_placement() -> None:
    times = {n: {"cpu:a": 0.001, "gpu:a": 0.0005} for n in ("n0", "n1")}
    problem = Problem.of(chain(OpClass.CONV, OpClass.CONV), [CPU, GPU], times, Platform(default_link=LinkCost(0.0001)))
    why = {task.nodes[0]: task.reason for task in placed_tasks(problem, {"n0": "cpu:a", "n1": "cpu:a"})}
    assert why["n0"] == "cpu:a 1 ms > gpu:a 0.5 ms + 0.1 ms copy, but the strategy keeps it with the rest"
