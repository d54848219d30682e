"""Nodes are never placed on a device that does not support them, and segments are compiled when a plan is made."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import FakeCosts
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem import device_support as support
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.strategies import strategy
from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileVerdict
from trisect.runtime.device import Device, Limits
from trisect.runtime.engines import discover, find_devices, unavailable
from trisect.runtime.errors import EngineFailed, InfeasibleProblem, UnsupportedOperator
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")
FAST_OPENVINO = FakeCosts(flops_per_s=(("cpu:openvino", 1e12),), copy_s=1e-9, overhead_s=1e-9)
MIXED = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> m (float[4, 16] x) => (float[4, 16] y) {
    a = MatMul(x, w) s = com.microsoft.QuickGelu(a) n = com.microsoft.Inverse(w) b = MatMul(s, n) y = Relu(b) }"""
QDQ = """
<ir_version: 8, opset_import: ["" : 17]> m (float[4, 16] x) => (float[4, 16] y) {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear(w, s, zw) a = MatMul(d, wd) r = Relu(a) rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, z) e = Sigmoid(rd) eq = QuantizeLinear(e, s, z) y = DequantizeLinear(eq, s, z) }"""


def inverse(path: Path) -> Path:
    weight = np.eye(16, dtype=np.float32) + np.float32(0.1)
    return small_models.write(path / "m.onnx", MIXED, {"w": weight})


@pytest.fixture
def known(tmp_path: Path) -> Capabilities:
    return Capabilities(tmp_path / "capabilities.json")


@pytest.fixture
def compiled(known: Capabilities) -> list[str]:
    seen: list[str] = []
    real = known.ask

    def failure(model, device):
        seen.append(device.id)
        return real(model, device)

    known.ask = failure
    return seen


def test_what_a_device_refuses_goes_elsewhere(tmp_path, known):
    path = inverse(tmp_path)
    refused = refusals(Graph.read(path), task_graph(Graph.read(path)), [OPENVINO, ORT], known)
    assert set(refused) == {("Inverse_2", "cpu:openvino")}
    assert "Inverse" in refused["Inverse_2", "cpu:openvino"]
    plan = small_models.split(path, [OPENVINO, ORT], FAST_OPENVINO, out_folder=tmp_path / "plan", capabilities=known)
    assert plan.placement["Inverse_2"] == "cpu:ort"
    assert "cpu:openvino" in plan.placement.values()
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    with Session(plan) as session:
        got = session.run({"x": x})["y"]
    weight = np.eye(16) + 0.1
    a = x @ weight
    np.testing.assert_allclose(got, np.maximum(a / (1 + np.exp(-1.702 * a)) @ np.linalg.inv(weight), 0), atol=1e-4)


def test_an_operator_that_no_device_runs_is_named_with_them(tmp_path, known):
    with pytest.raises(
        UnsupportedOperator, match=r"node 'Inverse_2' \(com\.microsoft::Inverse\) runs on none of cpu:openvino \(.+\)"
    ):
        small_models.split(
            inverse(tmp_path), [OPENVINO], FAST_OPENVINO, out_folder=tmp_path / "plan", capabilities=known
        )
    assert not (tmp_path / "plan").exists()


def test_a_model_that_a_device_takes_whole_is_compiled_once_and_then_never(tmp_path, known, compiled):
    path = small_models.mlp(tmp_path / "m.onnx", layers=3)
    graph = Graph.read(path, {"batch": 2})
    assert refusals(graph, task_graph(graph), [OPENVINO, ORT], known) == {}
    assert compiled == ["cpu:openvino", "cpu:ort"]
    assert refusals(graph, task_graph(graph), [OPENVINO, ORT], Capabilities(known.path)) == {}
    assert len(compiled) == 2


def test_equal_nodes_are_asked_about_once_and_different_ones_are_not_mixed_up(tmp_path, known):
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[2, 4] x) => (float[2, 4] y) {
        a = Relu(x) b = Relu(a) c = Softmax<axis=0>(b) d = Softmax<axis=1>(c) e = Reshape(d, s) f = Reshape(e, t)
        y = Relu(f) }"""
    shapes = {"s": np.array([4, 2], np.int64), "t": np.array([2, 4], np.int64)}
    graph = Graph.read(small_models.write(tmp_path / "m.onnx", text, shapes))
    tasks = task_graph(graph)
    keys = {
        task: support.candidate(graph, nodes, lambda: Path()).key for task, nodes in tasks.nodes(data="nodes")
    }  # fmt: skip
    assert keys["Relu_0"] == keys["Relu_1"] == keys["Relu_6"]
    assert len(set(keys.values())) == 5
    assert keys["Relu_0"].startswith("Relu float32[2,4] ")


def test_weights_of_one_shape_are_one_question(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[2, 32] x) => (float[2, 32] y) {
        a = MatMul(x, v) y = MatMul(a, w) }
    """
    weights = {name: np.full((32, 32), value, np.float32) for name, value in (("v", 1), ("w", 2))}
    graph = Graph.read(small_models.write(tmp_path / "m.onnx", text, weights))
    first, second = (support.candidate(graph, (name,), lambda: Path()) for name in ("MatMul_0", "MatMul_1"))
    assert first.key == second.key
    assert (first.dtypes, first.rank, first.is_static) == (frozenset({"float32"}), 2, True)


def test_limits_reach_the_placement(tmp_path, known):
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    halves = Device("npu:null", "npu", "null", "toy", limits=Limits(dtypes=("float16",)))
    free = FakeCosts(flops_per_s=(("npu:null", 1e15),))
    plan = small_models.split(
        path, [ORT, halves], free, shapes={"batch": 1}, out_folder=tmp_path / "plan", capabilities=known
    )
    assert set(plan.placement.values()) == {"cpu:ort"}


def test_a_device_of_another_machine_is_judged_by_its_limits(tmp_path, known):
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    away = Device("npu:away", "npu", "away", "toy", reality="published")
    free = FakeCosts(flops_per_s=(("npu:away", 1e15),))
    plan = small_models.split(
        path, [ORT, away], free, shapes={"batch": 512}, out_folder=tmp_path / "plan", capabilities=known
    )
    assert "npu:away" in plan.placement.values()


@pytest.fixture
def picky(monkeypatch) -> list[str]:
    """Makes cpu:openvino refuse every segment that it is shown, and lists who was shown one."""
    real, shown = Capabilities.supports, []

    def supports(self, candidate, device):
        if candidate.key.startswith("segment"):
            shown.append(device.id)
            if device.id == "cpu:openvino":
                return CompileVerdict(False, "too much at once")
        return real(self, candidate, device)

    monkeypatch.setattr(Capabilities, "supports", supports)
    return shown


def test_what_does_not_compile_together_goes_elsewhere_and_the_plan_says_so(tmp_path, known, picky):
    """An engine may take two operators one by one and refuse them together."""
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    plan = small_models.split(
        path, [OPENVINO, ORT], FAST_OPENVINO, shapes={"batch": 1}, out_folder=tmp_path / "plan", capabilities=known
    )
    assert picky == ["cpu:openvino", "cpu:ort"]
    assert set(plan.placement.values()) == {"cpu:ort"}
    (note,) = Plan.load(tmp_path / "plan").notes
    assert re.fullmatch(
        r"segment 0 \(MatMul_0, .*, \.\.\.\) does not compile on cpu:openvino, .*: too much at once", note
    )
    options = plan.task_of("MatMul_0").options
    assert [option.why_not for option in options if option.device == "cpu:openvino"] == [
        "does not compile there together with others: too much at once"
    ]


def test_a_segment_that_compiles_nowhere_is_refused(tmp_path, known, picky):
    path = small_models.mlp(tmp_path / "m.onnx", layers=2)
    with pytest.raises(
        UnsupportedOperator, match=r"'MatMul_0' \(MatMul\) runs on none of cpu:openvino \(does not compile"
    ):
        small_models.split(
            path, [OPENVINO], FakeCosts(), shapes={"batch": 1}, out_folder=tmp_path / "plan", capabilities=known
        )
    forced = {"force": {"op:MatMul": "cpu:openvino"}}
    with pytest.raises(InfeasibleProblem, match=r"'MatMul_0'.*'op:MatMul' forces it to cpu:openvino"):
        small_models.split(
            path, [OPENVINO, ORT], FakeCosts(), shapes={"batch": 1}, out_folder=tmp_path / "plan",
            constraints=forced, capabilities=known,
        )  # fmt: skip
    assert not (tmp_path / "plan").exists()


def test_planning_anew_ends(tmp_path, known, monkeypatch):
    """Planning fails after a few attempts where one node after the other is refused."""
    real = Capabilities.supports

    def supports(self, candidate, device):
        if candidate.key.startswith("segment") and device.id == "cpu:openvino":
            return CompileVerdict(False, "no")
        return real(self, candidate, device)

    monkeypatch.setattr(Capabilities, "supports", supports)

    @strategy("test-one-by-one")
    def one_by_one(problem):
        first = next((t for t in problem.graph if "cpu:openvino" in problem.allowed(t)), None)
        return {task: "cpu:openvino" if task == first else "cpu:ort" for task in problem.graph}

    path = small_models.mlp(tmp_path / "m.onnx", layers=3)
    with pytest.raises(EngineFailed, match=r"\(MatMul_3|Add_4.*\) does not compile on cpu:openvino: no"):
        small_models.split(
            path, [OPENVINO, ORT], FakeCosts(), "test-one-by-one", shapes={"batch": 1}, out_folder=tmp_path / "plan",
            capabilities=known,
        )  # fmt: skip
    assert not (tmp_path / "plan").exists()


def test_a_damaged_capability_cache_is_reported_and_not_part_of_the_plan(tmp_path):
    (tmp_path / "capabilities.json").write_text("{")
    known = Capabilities(tmp_path / "capabilities.json")
    path = small_models.mlp(tmp_path / "m.onnx", layers=1)
    plan = small_models.split(
        path, [ORT], FakeCosts(), shapes={"batch": 1}, out_folder=tmp_path / "plan", capabilities=known
    )
    (note,) = plan.notes
    assert "capabilities.json.damaged" in note
    assert Plan.load(tmp_path / "plan").notes == ()


def test_quantisation_stays_with_the_operator_that_it_wraps(tmp_path):
    constants = {
        "s": np.float32(0.02), "z": np.uint8(128), "zw": np.int8(0), "w": np.ones((16, 16), np.int8)
    }  # fmt: skip
    graph = Graph.read(small_models.write(tmp_path / "m.onnx", QDQ, {k: np.asarray(v) for k, v in constants.items()}))
    groups = [set(nodes) for _, nodes in task_graph(graph).nodes(data="nodes")]
    around_matmul = next(group for group in groups if "MatMul_3" in group)
    around_sigmoid = next(group for group in groups if "Sigmoid_7" in group)
    assert around_matmul == {"DequantizeLinear_1", "DequantizeLinear_2", "MatMul_3"}
    assert around_sigmoid == {"DequantizeLinear_6", "Sigmoid_7", "QuantizeLinear_8"}
    assert {"Relu_4", "QuantizeLinear_5"} in groups


def test_a_quantised_weight_that_is_shared_ties_nothing_together(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[4, 16] x) => (float[4, 16] y) {
        wd = DequantizeLinear(w, s, zw) a = MatMul(x, wd) b = Relu(a) c = Sigmoid(b) y = MatMul(c, wd) }"""
    constants = {"s": np.float32(0.02), "zw": np.int8(0), "w": np.ones((16, 16), np.int8)}
    graph = Graph.read(small_models.write(tmp_path / "m.onnx", text, {k: np.asarray(v) for k, v in constants.items()}))
    assert len(task_graph(graph)) == 5


def test_a_real_model_goes_where_it_can_run(tmp_path, known, models):
    """OpenVINO refuses silero's nested If: it runs on the other device, or is refused with the reason without one."""
    path = models / "silero_vad.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {models}")
    shapes = {"input.0": 1, "input.1": 512, "state.1": 1}
    plan = small_models.split(
        path, [OPENVINO, ORT], FAST_OPENVINO, shapes=shapes, out_folder=tmp_path / "plan", capabilities=known
    )
    branching = [name for name in plan.placement if name.startswith("If")]
    assert branching
    assert {plan.placement[name] for name in branching} == {"cpu:ort"}
    feeds = {
        "input": np.zeros((1, 512), np.float32), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)
    }  # fmt: skip
    with Session(plan) as session:
        assert session.run(feeds)["output"].shape == (1, 1)
    with pytest.raises(UnsupportedOperator, match=r"\(If\) runs on none of cpu:openvino"):
        small_models.split(
            path, [OPENVINO], FakeCosts(), shapes=shapes, out_folder=tmp_path / "other", capabilities=known
        )


@pytest.mark.parametrize("accelerator", ["npu:qnn", "gpu:webgpu", "gpu:cuda"])
def test_a_plan_runs_over_a_cpu_and_an_accelerator(tmp_path, known, accelerator):
    """Sigmoid to the one, what it refuses (Det) to the other; numbers cross the border both ways."""
    result = {device.id: device for device in discover()}
    if accelerator not in result:
        pytest.skip(f"{accelerator}: {unavailable().get(accelerator.partition(':')[2], 'not on this machine')}")
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[4, 4] x) => (float[4, 4] y) {
        a = MatMul(x, w) s = Sigmoid(a) d = Det(s) m = Mul(s, d) y = Relu(m) }"""
    weight = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    path = small_models.write(tmp_path / "m.onnx", text, {"w": weight})
    forced = dict.fromkeys(("MatMul_0", "Sigmoid_1", "Mul_3", "Relu_4"), accelerator)
    plan = small_models.split(
        path,
        [result[accelerator], ORT],
        FakeCosts(),
        out_folder=tmp_path / "plan",
        constraints={"force": forced},
        capabilities=known,
    )
    assert plan.placement == {**forced, "Det_2": "cpu:ort"}
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    with Session(plan) as session:
        got = session.run({"x": x})["y"]
    sigmoid = 1 / (1 + np.exp(-(x.astype(np.float64) @ weight)))
    np.testing.assert_allclose(got, np.maximum(sigmoid * np.linalg.det(sigmoid), 0), atol=5e-3)
