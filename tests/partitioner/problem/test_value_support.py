"""Nodes are placed only where they compute what ONNX defines, and each kind of node is tried once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import FakeCosts
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.profiles.capabilities import compile_verdicts
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.value_trials import EQUAL, TrialResult, compare_values
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.null import null_devices
from trisect.runtime.errors import InvalidInput, UnsupportedOperator
from trisect.runtime.sessions.session import Session

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")
WIDE = """
<ir_version: 8, opset_import: ["" : 17]> m (int64[4] x) => (int64[4] y) { a = Add(x, one) y = Mul(a, two) }"""
CONSTANTS = {"one": np.array(1), "two": np.array(2)}
FAST_OPENVINO = FakeCosts(flops_per_s=(("cpu:openvino", 1e12),), copy_s=1e-9, overhead_s=1e-9)


@pytest.fixture
def known(tmp_path: Path, monkeypatch) -> Capabilities:
    """An empty cache, without the shipped results."""
    monkeypatch.setattr(compile_verdicts, "shipped_result", lambda key, device: None)
    return Capabilities(tmp_path / "capabilities.json", compare=compare_values)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return small_models.write(tmp_path / "m.onnx", WIDE, CONSTANTS)


def split(path: Path, devices, known, **options):
    return small_models.split(
        path, devices, FAST_OPENVINO, out_folder=path.parent / "plan", capabilities=known, **options
    )


def test_a_node_that_computes_something_else_goes_elsewhere(wide, known):
    plan = split(wide, [OPENVINO, ORT], known)
    assert set(plan.placement.values()) == {"cpu:ort"}
    x = np.array([2**40 + 1, -(5 * 10**9), 3, 1_700_000_000_123])
    with Session(plan) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], (x + 1) * 2)


def test_without_another_device_the_split_names_node_device_difference_and_remedy(wide, known):
    with pytest.raises(UnsupportedOperator) as caught:
        split(wide, [OPENVINO], known)
    message = str(caught.value)
    assert "node 'Add_0' (Add) runs on none of cpu:openvino (computes something else: 'a' is off by" in message
    assert "beyond 32 bits" in message
    assert "cpu:reference" in message
    assert "--assume" in message


def test_an_assumption_of_narrow_numbers_is_recorded_and_checked_when_it_runs(wide, known):
    plan = split(wide, [OPENVINO], known, constraints={"assume": ["narrow-numbers"]})
    assert plan.constraints == {"assume": ["narrow-numbers"]}
    assert set(plan.placement.values()) == {"cpu:openvino"}
    with Session(plan) as session:
        x = np.array([1, -5, 3, 2**30 - 2])
        np.testing.assert_array_equal(session.run({"x": x})["y"], (x + 1) * 2)
        for number in (2**31, -(2**31) - 1):
            with pytest.raises(InvalidInput, match=rf"input 'x' contains {number}.*more than 32 bits"):
                session.run({"x": np.array([1, number, 0, 0])})


def test_each_kind_of_node_is_tried_once(tmp_path, known):
    tried: list[str] = []

    def compare(trial, device):
        tried.append(device.id)
        return EQUAL

    known.compare = compare
    graph = Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=3), {"batch": 2})
    assert refusals(graph, task_graph(graph), [OPENVINO, ORT], known) == {}
    assert sorted(tried) == ["cpu:openvino"] * 3 + ["cpu:ort"] * 3  # MatMul, Add, Relu
    larger = Graph.read(small_models.mlp(tmp_path / "n.onnx", layers=2, width=48), {"batch": 5})
    again = Capabilities(known.path, compare=compare)
    assert refusals(larger, task_graph(larger), [OPENVINO, ORT], again) == {}
    assert len(tried) == 6


def test_an_engine_that_dies_in_a_trial_is_refused_in_one_line(tmp_path, known):
    def compare(trial, device):
        raise ChildProcessFailed("the process of trial runs", "its process ended (SIGSEGV)")

    known.compare = compare
    path = small_models.write(
        tmp_path / "m.onnx", WIDE.replace("int64", "float"), {"one": np.float32(1), "two": np.float32(2)}
    )
    graph = Graph.read(path)
    refused = refusals(graph, task_graph(graph), [OPENVINO], known)
    assert refused["Add_0", "cpu:openvino"] == "fails when it runs: its process ended (SIGSEGV)"


def test_devices_that_compute_nothing_are_not_tried(wide, known):
    known.compare = lambda trial, device: TrialResult("different", "it computes zeros")
    graph = Graph.read(wide)
    assert refusals(graph, task_graph(graph), null_devices("npu", 1), known) == {}


def test_progress_counts_the_trials(wide, known):
    steps: list[tuple[int, int, str]] = []
    graph = Graph.read(wide)
    refusals(graph, task_graph(graph), [OPENVINO], known, lambda *step: steps.append(step))
    assert (1, 2, "checking which results of cpu:openvino are right") in steps
