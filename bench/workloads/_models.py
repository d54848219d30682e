"""ONNX models as placement problems on a published machine: costs are predicted, nothing runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.problem_builder import ProblemInputs
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.profiles import reference
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance

MACHINE = "intel-core-ultra-7-155h"
"""The default: a CPU, a GPU and an NPU in one package."""
_GRID = 2.0**40


class RoundedCosts(Costs):
    """Costs rounded to 2^-40 s, a picosecond.

    This removes the last bits, in which the math libraries of two machines differ: a study is reproducible on both.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return _rounded(self._costs.node_time_s(features, device_id))

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        link = self._costs.link(src_id, dst_id)
        return replace(link, latency_s=_rounded(link.latency_s))

    def call_overhead_s(self, device_id: str) -> float:
        return _rounded(self._costs.call_overhead_s(device_id))


def _rounded(time_s: float) -> float:
    return round(time_s * _GRID) / _GRID if time_s < float("inf") else time_s


def model_instances(
    models: Mapping[str, tuple[Path, Mapping[str, int]]], machine: str, objective: Objective | None
) -> Iterable[WorkloadInstance]:
    """Yield an instance for each model: name -> file and the sizes of its symbolic dimensions."""
    reference.machine(machine)  # raises for an unknown machine before anything is read
    for name, (path, shapes) in models.items():
        yield WorkloadInstance(name, partial(model_problem, path, shapes, machine, objective))


def model_problem(path: Path, shapes: Mapping[str, int], machine: str, objective: Objective | None) -> Problem:
    """Return the placement problem of a model on a published machine."""
    graph = Graph.read(path, shapes)
    platform = reference.machine(machine)
    power_w = {key: device.power_w for key, device in platform.profile.devices.items() if device.power_w is not None}
    return ProblemInputs(
        graph,
        task_graph(graph),
        tuple(platform.devices),
        _costs(machine),
        objective=objective or "latency",
        power_w=power_w,
    ).problem


@cache
def _costs(machine: str) -> RoundedCosts:
    return RoundedCosts(ProfileCosts(reference.machine(machine).profile))
