"""What models take of memory: the models must be what they claim, and a plan's peak must follow what was measured."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod

import networkx as nx
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from trisect.partitioner.segments.convex_cut import best_cut
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.placement_value import certificate, evaluate_proposal
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.memory_need import MemoryNeed, memory_need
from trisect.profiles.measuring.memory_measurement import (
    has_own_memory,
    measure_memory,
    memory_models,
)
from trisect.profiles.stored.profile_data import DeviceProfile, MemoryPoint
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions
from trisect.scheduler.bounds.lower_bounds import best_bound
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.rules import Rules
from trisect.scheduler.simulation.energy_and_memory import peak_bytes, with_energy_and_memory
from trisect.scheduler.simulation.simulate import simulate
from trisect.scheduler.simulation.validate import validate_rules

ORT = find_devices("cpu:ort")[0]


@pytest.mark.parametrize("model", memory_models(), ids=lambda model: model.name)
def test_models_are_as_large_as_they_claim(model, tmp_path):
    path = tmp_path / "m.onnx"
    model.write(path)
    onnx.checker.check_model(path, full_check=True)
    beside = path.with_name("m.weights")
    assert (beside.stat().st_size if beside.exists() else 0) == model.weights_bytes
    assert path.stat().st_size < 10_000
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    sizes = {v.name: 4 * prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    live = max(sum(sizes.get(name, 0) for name in (*node.input, *node.output)) for node in inferred.node)
    assert model.tensors_bytes == live or (model.name == "tiny" and live < 100)


def test_tensors_pass_through_the_model_that_is_mostly_tensors(tmp_path):
    model = memory_models()[-1]
    model.write(tmp_path / "m.onnx")
    (result,) = ReferenceEvaluator(onnx.load(tmp_path / "m.onnx")).run(None, {"x": np.ones(model.shape, np.float32)})
    assert result == pytest.approx(model.shape[-1], rel=1e-3)  # the shares of each column add up to one


def test_an_engine_holds_at_least_what_it_computes_with():
    points = {point.case: point for point in measure_memory(ORT, LoadOptions())}
    for model in memory_models()[1:]:
        assert points[model.name].resident_bytes > 0.8 * max(model.weights_bytes, model.tensors_bytes)
    assert points["tiny"].resident_bytes < 0.1 * points["weights of products"].resident_bytes


def test_what_is_not_in_this_process_is_not_measured_by_it():
    assert not has_own_memory(ORT)
    assert not has_own_memory(Device("npu:qnn", "npu", "qnn", "", reality="simulated"))
    assert has_own_memory(Device("gpu:cuda", "gpu", "cuda", ""))
    assert has_own_memory(Device("npu:null", "npu", "null", "", reality="simulated"))
    assert memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6)) is None


def test_weights_count_together_whatever_operator_has_them():
    points = (
        MemoryPoint("tiny", 0, 0, 100), MemoryPoint("a", 1000, 10, 1100), MemoryPoint("b", 3000, 10, 6100),
        MemoryPoint("c", 0, 500, 1600),
    )  # fmt: skip
    result = memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6, memory=points))
    assert result == MemoryNeed(100.0, (1000 + 6000) / 4000, 3.0)


@pytest.fixture
def problem() -> Problem:
    """A diamond; cpu:a keeps half of the weights (it maps them), gpu:b twice as much as there is."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for source, target in (("w", "x"), ("w", "y"), ("x", "z"), ("y", "z")):
        graph.add_edge(source, target, tensors={f"{source}.out": 64})
    devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    memory = {"cpu:a": MemoryNeed(30.0, 0.5, 1.5), "gpu:b": MemoryNeed(10.0, 2.0, 3.0)}
    return Problem.of(
        graph, devices, lambda task, device: 1.0, Platform(default_link=LinkCost(0.1), memory=memory),
        objective="memory", rules=Rules(sizes_bytes={"w": 4000, "x": 1000, "y": 2500, "z": 800}),
    )  # fmt: skip


def test_a_peak_is_what_was_measured_for_each_byte(problem):
    parts = [Part("cpu:a", ("w", "x", "y")), Part("gpu:b", ("z",))]
    schedule = simulate(problem, parts)
    # Beside its weights cpu:a holds, at the worst, what w, x and y made; gpu:b what x and y made.
    assert peak_bytes(problem, parts, schedule) == {
        "cpu:a": round(30 + 0.5 * 7500 + 1.5 * 3 * 64),
        "gpu:b": round(10 + 2.0 * 800 + 3.0 * 2 * 64),
    }
    messages = with_energy_and_memory(
        replace(problem, platform=replace(problem.platform, memory={"gpu:b": MemoryNeed()})), parts, schedule
    )
    assert messages.peak_basis == {"cpu:a": "weights and tensors", "gpu:b": "measured factors"}


@pytest.mark.parametrize("strategy", ["exact", "auto"])
def test_no_placement_is_below_the_bound_and_a_strategy_that_proves_is_at_the_best(problem, strategy):
    values = []
    for where in itertools.product(problem.device_ids, repeat=4):
        _, value, _ = best_cut(problem, dict(zip(problem.graph, where, strict=True)), None)
        values.append(value)
    assert best_bound(problem).value <= min(values)
    result = propose(problem, strategy, time_limit_s=10, seed=0)
    assert certificate(problem, result).value <= min(values)
    assert evaluate_proposal(problem, result).value <= 1.1 * min(values)


def test_what_an_engine_doubles_may_not_fit(problem):
    small = replace(problem.devices[1], memory_bytes=6000)
    tight = replace(problem, devices=(problem.devices[0], small))
    placement = dict.fromkeys(problem.graph, "cpu:a") | {"w": "gpu:b"}
    parts = [Part("gpu:b", ("w",)), Part("cpu:a", ("x", "y", "z"))]
    assert [v.kind for v in validate_rules(tight, placement, parts)] == ["memory"]
    assert validate_rules(replace(tight, platform=replace(tight.platform, memory={})), placement, parts) == []
