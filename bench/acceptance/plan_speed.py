"""Time of planning: layered random models of thousands of nodes, from an ONNX file to a placement.

Costs are modelled by a roofline for each device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import onnx
from onnx import TensorProto, helper

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.problem_builder import ProblemInputs
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.strategies import propose
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Problem

from .interleaved_timing import median_s, timed

STRATEGIES = ("heft", "opclass", "multilevel")
_WIDTH = 8
_SIZE = 16
_PLAN_PER_10K_S = 0.3
_READ_PER_10K_S = 1.0
DEVICES = (
    Device("cpu:model", "cpu", "model", "modelled", "simulated"),
    Device("gpu:model", "gpu", "model", "modelled", "simulated"),
    Device("npu:model", "npu", "model", "modelled", "simulated"),
)
_FLOPS_PER_S = {"cpu:model": 1e11, "gpu:model": 1e12, "npu:model": 5e11}
_CALL_S = {"cpu:model": 1e-6, "gpu:model": 1e-5, "npu:model": 2e-5}


@dataclass(frozen=True)
class PlanSpeed:
    """One strategy on one model; times are medians."""

    nodes: int
    strategy: str
    read_s: float
    """ONNX file -> Graph."""
    problem_s: float
    """Graph -> Problem."""
    place_s: float
    """Problem -> placement."""
    total_s: float
    """Graph -> placement."""
    bar_s: float
    read_bar_s: float
    met: bool
    """Whether reading and planning are both within their targets."""


class _RooflineCosts(Costs):
    """Costs of synthetic devices by a roofline."""

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        moved = features.bytes_read + features.bytes_written
        return _CALL_S[device_id] + features.flops / _FLOPS_PER_S[device_id] + moved / 2e10

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        return LinkCost(1e-5, 1e10)

    def call_overhead_s(self, device_id: str) -> float:
        return _CALL_S[device_id]


def bench_plan_speed(
    nodes: Sequence[int], *, rounds: int = 3, seed: int = 0, progress: Progress = no_progress
) -> list[PlanSpeed]:
    """Time strategies on models of these numbers of nodes.

    Parameters
    ----------
    nodes : sequence of int
    rounds : int
        Of each strategy, without warming up: planning happens once.
    seed : int
        Random seed of the model's edges.
    progress : callable, optional
    """
    runs = []
    for n, count in enumerate(nodes):
        with layered_model(count, seed) as path:
            graph, read_s = timed(partial(Graph.read, path))
            problem, problem_s = timed(partial(_make_problem, graph))
            for i, strategy in enumerate(STRATEGIES):
                progress(n * len(STRATEGIES) + i, len(nodes) * len(STRATEGIES), f"{strategy}, {count} nodes")
                place_s = median_s(partial(propose, problem, strategy), rounds)
                plan_max_s, read_max_s = _PLAN_PER_10K_S * count / 10_000, _READ_PER_10K_S * count / 10_000
                total_s = problem_s + place_s
                met = total_s <= plan_max_s and read_s <= read_max_s
                runs.append(
                    PlanSpeed(count, strategy, read_s, problem_s, place_s, total_s, plan_max_s, read_max_s, met)
                )
    return runs


def _make_problem(graph: Graph) -> Problem:
    return ProblemInputs(graph, task_graph(graph), DEVICES, _RooflineCosts()).problem


@contextmanager
def layered_model(count: int, seed: int = 0) -> Iterator[Path]:
    """Write a layered model: products with one weight, sums and activations, each reading from the layer before."""
    random = Random(seed)
    shape = [_SIZE, _SIZE]
    tensors: list[str] = ["x"] * _WIDTH
    nodes = []
    for i in range(count):
        one, other = tensors[-_WIDTH + random.randrange(_WIDTH)], tensors[-_WIDTH + random.randrange(_WIDTH)]
        op = ("MatMul", "Add", "Relu")[i % 3]
        inputs = {"MatMul": [one, "w"], "Add": [one, other], "Relu": [one]}[op]
        nodes.append(helper.make_node(op, inputs, [f"t{i}"], name=f"n{i}"))
        tensors.append(f"t{i}")
    read = {name for node in nodes for name in node.input}
    outputs = [node.output[0] for node in nodes if node.output[0] not in read]
    graph = helper.make_graph(
        nodes,
        "layered",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
        [helper.make_tensor("w", TensorProto.FLOAT, shape, [0.1] * _SIZE**2)],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layered.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        yield path
