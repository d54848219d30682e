"""From a model file to a plan folder, which computes what the model computes and is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, CPU2, GPU, FakeCosts
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.segments.segment_writer import ALIGNMENT_BYTES
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.runtime.device import Limits
from trisect.runtime.errors import (
    InfeasibleProblem,
    InvalidInput,
    StorageFailed,
    TrisectError,
    UnsupportedModel,
    UnsupportedOperator,
)
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Transfer
from trisect.runtime.tensors.onnx_tensors import all_tensors

Feeds = dict[str, np.ndarray]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, int], Callable[[], Feeds]]] = {
    "mlp": (lambda p: small_models.mlp(p / "m.onnx", layers=5), {"batch": 3}, lambda: {"x": floats(3, 32)}),
    "shapes": (
        lambda p: small_models.shape_arithmetic(p / "m.onnx"),
        {"batch": 2, "tokens": 3},
        lambda: {"x": floats(2, 3, 64)},
    ),
    "branching": (
        lambda p: small_models.branching(p / "m.onnx"),
        {},
        lambda: {"go": np.array(False), "x": floats(2, 8)},
    ),
    "function": (lambda p: small_models.with_function(p / "m.onnx"), {}, lambda: {"x": floats(4)}),
    "external": (small_models.external, {}, lambda: {"x": floats(1, 64)}),
}


@pytest.mark.parametrize("strategy", ["auto", "opclass", "single", "test-blocks:2", "test-random:1", "test-random:2"])
@pytest.mark.parametrize("case", list(CASES))
def test_split_equals_whole(tmp_path: Path, case: str, strategy: str) -> None:
    make, shapes, feeds = CASES[case]
    path = make(tmp_path)
    plan = small_models.split(path, [CPU, GPU], FakeCosts(), strategy, shapes=shapes, out_folder=tmp_path / "plan")
    expected = small_models.run_whole(path, feeds())
    got = small_models.run_plan(plan, feeds())
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", list(CASES))
def test_same_input_same_bytes(tmp_path: Path, case: str) -> None:
    make, shapes, _ = CASES[case]
    path = make(tmp_path)
    folders = [tmp_path / "one", tmp_path / "elsewhere" / "two"]
    for folder in folders:
        small_models.split(path, [CPU, GPU], FakeCosts(), "test-blocks:3", shapes=shapes, out_folder=folder)
    one, two = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert one == two
    assert str(tmp_path).encode() not in b"".join(one.values())


def test_what_a_plan_says(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    plan = small_models.split(
        path, [CPU, GPU], FakeCosts(), "test-blocks:2", shapes={"batch": 1}, out_folder=tmp_path / "plan"
    )
    assert [(s.device, s.nodes) for s in plan.segments] == [
        ("cpu:one", ("MatMul_0", "Add_1", "Relu_2")),
        ("gpu:one", ("MatMul_3", "Add_4", "Relu_5")),
    ]
    assert plan.placement == {n: s.device for s in plan.segments for n in s.nodes}
    assert plan.transfers == (Transfer("x", -1, 0, 128), Transfer("r0", 0, 1, 128), Transfer("y", 1, -1, 128))
    assert plan.predicted.source == "predicted"
    assert plan.value == plan.predicted.latency_s
    assert 0 < plan.bound <= plan.value
    assert plan.gap == plan.value / plan.bound - 1
    assert plan.explain("MatMul_0").startswith("cpu:one")
    with pytest.raises(InvalidInput, match="did you mean 'MatMul_0'"):
        plan.explain("MatMul_00")


def test_weights_are_written_once_and_aligned(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[1, 64] x) => (float[1, 64] y) {
        a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Add(c, small) y = MatMul(d, v) }"""
    weights = {"w": floats(64, 64), "v": floats(64, 64), "small": floats(64)}
    path = small_models.write(tmp_path / "m.onnx", text, weights)
    plan = small_models.split(path, [CPU, GPU], FakeCosts(), "test-blocks:5", out_folder=tmp_path / "plan")
    assert plan.weights is not None
    assert plan.weights.size_bytes == 2 * 64 * 64 * 4  # w is read by two segments
    offsets = {}
    for segment in plan.segments:
        proto = onnx.load(tmp_path / "plan" / segment.file, load_external_data=False)
        for tensor in all_tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {e.key: e.value for e in tensor.external_data}
                offsets.setdefault(tensor.name, set()).add(int(entries["offset"]))
            else:
                assert tensor.name == "small"
    assert offsets == {"w": {0}, "v": {64 * 64 * 4}}
    assert ALIGNMENT_BYTES == 4096


def test_external_weights_inside_a_body_move_too(tmp_path: Path) -> None:
    path = small_models.branching(tmp_path / "m.onnx")
    model = onnx.load(path)
    weight = floats(300)
    (tmp_path / "body.data").write_bytes(weight.tobytes())
    body = next(a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch")
    tensor = onnx.TensorProto(name="inner", data_type=onnx.TensorProto.FLOAT, dims=[300])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="body.data")
    body.initializer.append(tensor)
    body.node.insert(0, onnx.helper.make_node("ReduceSum", ["inner"], ["sum"], keepdims=0))
    body.node[-1].input[0] = "sum"
    path.write_bytes(model.SerializeToString())
    feeds = {"go": np.array(False), "x": floats(2, 8)}
    expected = small_models.run_whole(path, feeds)
    plan = small_models.split(path, [CPU, GPU], FakeCosts(), "test-blocks:3", out_folder=tmp_path / "plan")
    (tmp_path / "body.data").unlink()
    np.testing.assert_allclose(small_models.run_plan(plan, feeds)["y"], expected["y"], rtol=1e-6)


def test_what_is_no_tensor_is_carried_too(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[2, 4] x) => (float[4, 2] y) {
        r = Relu(x) s = SequenceConstruct(r, x) u = Neg(r) i = Constant<value = int64 {1}>()
        e = SequenceAt(s, i) a = Add(e, u) y = Transpose(a) }"""
    path = small_models.write(tmp_path / "m.onnx", text)
    for seed in range(6):
        plan = small_models.split(path, [CPU, GPU], FakeCosts(), f"test-random:{seed}", out_folder=tmp_path / "plan")
        feeds = {"x": floats(2, 4)}
        np.testing.assert_array_equal(small_models.run_plan(plan, feeds)["y"], small_models.run_whole(path, feeds)["y"])


def test_outputs_that_no_node_computes(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[4] x) => (float[4] y, float[4] w) { y = Add(x, w) }"""
    path = small_models.write(tmp_path / "m.onnx", text, {"w": floats(4)})
    plan = small_models.split(path, [CPU], FakeCosts(), out_folder=tmp_path / "plan")
    got = small_models.run_plan(plan, {"x": floats(4)})
    np.testing.assert_array_equal(got["w"], floats(4))


def test_constraints_and_capabilities_are_respected(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    graph = Graph.read(path, {"batch": 1})
    plan = small_models.split(
        path,
        [CPU, CPU2],
        FakeCosts(),
        "opclass",
        shapes={"batch": 1},
        out_folder=tmp_path / "plan",
        constraints={"force": {"MatMul_0": "cpu:two"}, "forbid": {"Relu_5": "cpu:two"}},
    )
    assert plan.placement["MatMul_0"] == "cpu:two"
    assert plan.placement["Relu_5"] == "cpu:one"
    halves = replace(GPU, limits=Limits(dtypes=("float16",)))
    assert set(small_models.inputs_of(graph, [CPU, halves], FakeCosts()).problem.allowed("Add_1")) == {"cpu:one"}
    with pytest.raises(UnsupportedOperator, match=r"'MatMul_0' \(MatMul\) runs on none of gpu:one"):
        _ = small_models.inputs_of(graph, [halves], FakeCosts()).problem
    with pytest.raises(InvalidInput, match="'missing' matches nothing"):
        small_models.split(path, [CPU], FakeCosts(), shapes={"batch": 1}, constraints={"force": {"missing": "cpu:one"}})


def test_a_device_that_cannot_is_left_out(tmp_path: Path) -> None:
    class NoRelu(FakeCosts):
        def node_time_s(self, features: OpFeatures, device_id: str) -> float:
            return float("inf") if (features.op_type, device_id) == ("Relu", "gpu:one") else 1e-3

    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    plan = small_models.split(path, [CPU, GPU], NoRelu(), shapes={"batch": 1}, out_folder=tmp_path / "plan")
    assert plan.placement["Relu_2"] == plan.placement["Relu_5"] == "cpu:one"


def test_throughput_uses_both_devices_when_asked(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=2, width=256)
    plan = small_models.split(
        path, [CPU, GPU], FakeCosts(), "test-blocks:2", "throughput", {"batch": 8}, out_folder=tmp_path / "plan"
    )
    assert plan.value == pytest.approx(1 / plan.predicted.throughput_hz)
    assert plan.bound <= plan.value < plan.predicted.latency_s
    with pytest.raises(InfeasibleProblem, match="unknown objective 'beauty'; choose one of latency"):
        small_models.split(path, [CPU], FakeCosts(), "auto", "beauty", {"batch": 1}, out_folder=tmp_path / "p")  # type: ignore[arg-type]


def test_nothing_is_left_of_a_plan_that_fails(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx")
    folder = tmp_path / "out"
    good = small_models.split(path, [CPU], FakeCosts(), shapes={"batch": 1}, out_folder=folder)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    with pytest.raises(TrisectError):
        small_models.split(path, [CPU], FakeCosts(), "nonsense", shapes={"batch": 1}, out_folder=folder)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for taken, reason in (("file", "is a file"), ("full", "other than a plan")):
        with pytest.raises(StorageFailed, match=reason):
            small_models.split(path, [CPU], FakeCosts(), shapes={"batch": 1}, out_folder=tmp_path / taken)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "full", "m.onnx", "out"]
    assert Plan.load(folder) == good


def test_a_plan_that_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[1, 1, 1, 1] x) => (float[a, b, c, d] y) {
        y = ConvTranspose<output_shape = [4000000, 4000000]>(x, w) }"""
    path = small_models.write(tmp_path / "m.onnx", text, {"w": floats(1, 1, 1, 1)})
    with pytest.raises(UnsupportedModel, match=r"m\.onnx: tensor 'y' is larger than any memory"):
        small_models.split(path, [CPU], FakeCosts(), out_folder=tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
