"""Each node that runs is in exactly one kernel, and all measured time is assigned."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.engines import engine_for, find_devices, load
from trisect.runtime.engines.base import LoadOptions, ProfilingEngine
from trisect.runtime.engines.common.kernels import (
    Kernel,
    ProfiledStep,
    interquartile_mean,
    map_to_nodes,
    scale_to_total,
)
from trisect.runtime.errors import EngineFailed


def chain(*names: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=name) for i, name in enumerate(names)]
    return helper.make_model(helper.make_graph(nodes, "chain", [], []))


def step(name: str, nodes: tuple[str, ...], time_s: float, *inputs: str, layout: bool = False) -> ProfiledStep:
    return ProfiledStep(name, nodes, time_s, inputs, layout)


def test_a_node_without_a_step_belongs_to_the_kernel_of_its_reader() -> None:
    result = map_to_nodes(chain("a", "b", "c"), [step("1", ("b",), 1.0), step("2", ("c",), 2.0, "1")])
    assert result == (Kernel(("a", "b"), 1.0), Kernel(("c",), 2.0))


def test_a_last_node_without_a_step_belongs_to_the_kernel_before_it() -> None:
    result = map_to_nodes(chain("a", "b"), [step("1", ("a",), 1.0)])
    assert result == (Kernel(("a", "b"), 1.0),)


def test_a_step_without_nodes_is_assigned_to_the_next_step_with_nodes() -> None:
    steps = [
        step("own", (), 4.0),
        step("1", ("a",), 1.0, "own"),
        step("reorder", (), 8.0, "1", layout=True),
        step("2", ("b",), 2.0, "reorder"),
        step("back", (), 16.0, "2", layout=True),
    ]
    first, second = map_to_nodes(chain("a", "b"), steps)
    assert (first.nodes, first.time_s, first.layout_s, first.steps) == (("a",), 5.0, 0.0, 2)
    assert (second.nodes, second.time_s, second.layout_s, second.steps) == (("b",), 2.0, 24.0, 1)


def test_steps_that_share_a_node_are_one_kernel() -> None:
    result = map_to_nodes(chain("a", "b", "c"), [step("1", ("a", "b"), 1.0), step("2", ("b", "c"), 2.0, "1")])
    assert [(k.nodes, k.total_s, k.steps) for k in result] == [(("a", "b", "c"), 3.0, 2)]


def test_a_profile_of_another_model_gives_no_kernels() -> None:
    assert map_to_nodes(chain("a"), [step("1", ("z",), 1.0), step("2", (), 1.0)]) == ()
    assert map_to_nodes(chain("a"), []) == ()


def test_profiling_overhead_is_subtracted_per_step_and_the_rest_is_scaled() -> None:
    kernels = [Kernel(("a",), 20e-6, 0.0, 2), Kernel(("b",), 100e-6, 10e-6, 1)]
    result = scale_to_total(kernels, 110e-6)  # 20 us too many over 4 steps
    assert [k.time_s for k in result] == pytest.approx([10e-6, 95e-6])
    assert result[1].layout_s == pytest.approx(5e-6)
    for total_s in (1e-6, 60e-6, 130e-6, 1.0):
        again = scale_to_total(kernels, total_s)
        assert sum(k.total_s for k in again) == pytest.approx(total_s)
        assert all(k.time_s > 0 for k in again)
    assert scale_to_total([], 1.0) == ()


def test_the_interquartile_mean_ignores_outliers() -> None:
    assert interquartile_mean([]) == 0.0
    assert interquartile_mean([5.0]) == 5.0
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0, 1000.0, 0.0, 2.0, 3.0]) == pytest.approx(2.5)


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions with an activation each, then a product: engines fuse and change layouts here."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i in range(3):
        weights.append(numpy_helper.from_array(rng.standard_normal((32, 32 if i else 3, 3, 3)).astype("f"), f"w{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        name = f"r{i}"
    nodes.append(helper.make_node("Transpose", [name], ["t"], name="transpose", perm=[0, 2, 3, 1]))
    weights.append(numpy_helper.from_array(rng.standard_normal((32, 8)).astype("f"), "w"))
    nodes.append(helper.make_node("MatMul", ["t", "w"], ["y"], name="matmul"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "convolutions", [x], [y], weights)
    path = tmp_path_factory.mktemp("kernels") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize("device_id", ["cpu:ort", "cpu:openvino"])
def test_engines_report_the_kernels_of_a_model(convolutions: Path, device_id: str) -> None:
    (device,) = find_devices(device_id)
    engine = engine_for(device)
    assert isinstance(engine, ProfilingEngine)
    feeds = {"x": np.ones((1, 3, 32, 32), np.float32)}
    result = engine.kernels(convolutions, device, LoadOptions(pinned=True), feeds, 0.01)
    names = [node.name for node in onnx.load(convolutions).graph.node]
    assert sorted(node for kernel in result for node in kernel.nodes) == sorted(names)
    assert all(kernel.total_s > 0 for kernel in result if "conv1" in kernel.nodes)
    home = {node: i for i, kernel in enumerate(result) for node in kernel.nodes}
    # Both fuse an activation into its convolution, and neither three convolutions into one.
    assert home["conv1"] == home["relu1"]
    assert len({home[f"conv{i}"] for i in range(3)}) == 3
    with closing(load(convolutions, device)) as module:  # profiling has left no trace in the model
        assert np.isfinite(next(iter(module.run(feeds).values()))).all()


@pytest.mark.parametrize("device_id", ["cpu:ort", "cpu:openvino"])
def test_a_product_and_its_fused_nodes_are_one_kernel(tmp_path: Path, device_id: str) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": (256, 512), "b": (512,)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "b"], ["a"], name="bias"),
        helper.make_node("Softmax", ["a"], ["y"], name="softmax"),
    ]
    value = [numpy_helper.from_array(rng.standard_normal(shape).astype("f"), n) for n, shape in weights.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, w]) for n, w in (("x", 256), ("y", 512)))
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(nodes, "product", [x], [y], value)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    (device,) = find_devices(device_id)
    engine = engine_for(device)
    assert isinstance(engine, ProfilingEngine)
    result = engine.kernels(path, device, LoadOptions(), {"x": np.ones((1, 64, 256), np.float32)}, 0.01)
    # The engine brings weights into shape when it loads them: that is no step that runs.
    assert [kernel.nodes for kernel in result] == [("product", "bias"), ("softmax",)]
    assert all(kernel.total_s > 0 for kernel in result)


def test_a_model_that_an_engine_cannot_run_is_a_one_line_error(tmp_path: Path) -> None:
    (device,) = find_devices("cpu:ort")
    engine = engine_for(device)
    assert isinstance(engine, ProfilingEngine)
    path = tmp_path / "broken.onnx"
    node = helper.make_node("Nonsense", ["x"], ["y"], name="n", domain="nowhere")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), ir_version=10, opset_imports=opsets), path)
    with pytest.raises(EngineFailed, match=r"could not profile broken\.onnx: .*Nonsense"):
        engine.kernels(path, device, LoadOptions(), {"x": np.ones(1, np.float32)}, 0.01)
