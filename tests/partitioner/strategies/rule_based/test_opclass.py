"""The strategy `opclass`: prior, measured costs, smoothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.partitioner.segments.test_convex_cut import problems
from tests.partitioner.strategies.strategy_problems import (
    chain,
    placed,
)
from trisect.partitioner.strategies.rule_based.opclass import smooth
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.simulation.validate import validate_placement

CPU, CPU2 = Device("cpu:a", "cpu", "a", ""), Device("cpu:b", "cpu", "b", "")


GPU, NPU = Device("gpu:a", "gpu", "a", ""), Device("npu:a", "npu", "a", "")


@settings(max_examples=60)
@given(problems())
def test_smoothing_keeps_a_placement_valid(case: tuple[Problem, dict[str, str]]) -> None:
    problem, placement = case
    assert validate_placement(problem, smooth(problem, placement)) == []


def test_the_default_table_with_a_cpu_a_gpu_and_an_npu() -> None:
    classes = [OpClass.CONV, OpClass.ELEMENTWISE, OpClass.MATVEC, OpClass.NORM, OpClass.CONTROL_FLOW, OpClass.RECURRENT]
    problem = Problem.of(chain(*classes), [CPU, GPU, NPU], lambda n, d: 1.0)
    assert list(placed(problem, "opclass").values()) == ["gpu:a", "gpu:a", "npu:a", "npu:a", "cpu:a", "gpu:a"]


def test_small_operators_stay_on_the_cpu() -> None:
    problem = Problem.of(chain(OpClass.CONV, size=100), [CPU, GPU], lambda n, d: 1.0)
    assert placed(problem, "opclass") == {"n0": "cpu:a"}


def test_costs_decide_between_two_devices_of_a_kind_and_for_a_missing_kind() -> None:
    classes = [OpClass.MATMUL, OpClass.MATVEC]
    times = {"n0": {"cpu:a": 2.0, "cpu:b": 1.0}, "n1": {"cpu:a": 1.0, "cpu:b": 2.0}}
    problem = Problem.of(chain(*classes), [CPU, CPU2], times)
    assert placed(problem, "opclass") == {"n0": "cpu:b", "n1": "cpu:a"}
    kinds: tuple[Kind, ...] = ("gpu", "gpu")
    gpus = [Device(f"gpu:{i}", kind, str(i), "") for i, kind in enumerate(kinds)]
    pair = Problem.of(chain(OpClass.CONV), [CPU, *gpus], lambda n, d: {"cpu:a": 1.0, "gpu:0": 3.0}.get(d, 2.0))
    assert placed(pair, "opclass") == {"n0": "gpu:1"}


def test_an_island_that_costs_more_than_it_gains_moves_back() -> None:
    classes = [OpClass.CONV, OpClass.MATVEC, OpClass.CONV]
    times = {"n0": {"gpu:a": 1.0}, "n1": {"gpu:a": 1.0, "npu:a": 0.5}, "n2": {"gpu:a": 1.0}}
    dear = Problem.of(chain(*classes), [GPU, NPU], times, Platform(default_link=LinkCost(1.0)))
    assert set(placed(dear, "opclass").values()) == {"gpu:a"}
    cheap = Problem.of(chain(*classes), [GPU, NPU], times, Platform(default_link=LinkCost(0.1)))
    assert placed(cheap, "opclass")["n1"] == "npu:a"


def test_what_the_preferred_device_cannot_run_goes_elsewhere() -> None:
    problem = Problem.of(chain(OpClass.CONV), [CPU, GPU], {"n0": {"cpu:a": 9.0}})
    assert placed(problem, "opclass") == {"n0": "cpu:a"}
    assert placed(problem, "auto") == {"n0": "cpu:a"}
    with pytest.raises(InfeasibleProblem, match="gpu:a cannot run the whole"):
        placed(problem, "single:gpu:a")
