"""Reasons of a placement, in numbers that a user can check."""

from __future__ import annotations

from tests.partitioner.strategies.strategy_problems import (
    chain,
)
from trisect.partitioner.planning.placement_reasons import placed_tasks
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.device import Device
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem

CPU, CPU2 = Device("cpu:a", "cpu", "a", ""), Device("cpu:b", "cpu", "b", "")


GPU, NPU = Device("gpu:a", "gpu", "a", ""), Device("npu:a", "npu", "a", "")


def test_reasons_state_a_cheaper_alternative() -> None:
    times = {n: {"cpu:a": 0.001, "gpu:a": 0.0005} for n in ("n0", "n1")}
    problem = Problem.of(chain(OpClass.CONV, OpClass.CONV), [CPU, GPU], times, Platform(default_link=LinkCost(0.0001)))
    why = {task.nodes[0]: task.reason for task in placed_tasks(problem, {"n0": "cpu:a", "n1": "cpu:a"})}
    assert why["n0"] == "cpu:a 1 ms > gpu:a 0.5 ms + 0.1 ms copy, but the strategy keeps it with the rest"
