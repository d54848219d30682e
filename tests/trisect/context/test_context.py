"""Contexts: the devices they select, and what compiled graphs report about the devices that run them."""

import statistics
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

import trisect
from trisect.context import compiled_graph
from trisect.context.context import create_context
from trisect.context.history import History
from trisect.context.sources.onnx_file import structure_key
from trisect.runtime import engines
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, InvalidInput, UnknownDevice

ULTRA = "intel-core-ultra-7-155h"

MIXED = """
<ir_version: 10, opset_import: ["": 21]>
mixed (float[1024, 1024] x, float[1024, 1024] w, float[1, 4096] v, float[4096, 4096] m, float[64, 1, 512] s,
       float[1, 2048, 512] lw, float[1, 2048, 512] lr)
=> (float[1024, 1024] product, float[1, 4096] vector, float[64, 1, 1, 512] steps, float[1024, 1024] summed)
{
    product = MatMul (x, w)
    vector = MatMul (v, m)
    steps = LSTM <hidden_size = 512> (s, lw, lr)
    summed = Add (product, x)
}
"""
SMALL = """
<ir_version: 10, opset_import: ["": 21]>
small (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { a = Exp (x)  y = Neg (a)  z = Sqrt (a) }
"""
REFUSED_BY_OPENVINO = """
<ir_version: 10, opset_import: ["": 21]>
refused (float[2, 3, 3] x) => (float[2] y) { a = Exp (x)  d = Det (a)  y = Neg (d) }
"""


@pytest.fixture(autouse=True)
def own_store(measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRISECT_HISTORY", str(tmp_path / "history.sqlite"))
    monkeypatch.setenv("TRISECT_POLICY", "")


def written(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    model = parser.parse_model(text)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(model, path)
    return path


def test_the_six_policies_lead_to_different_plans(tmp_path: Path):
    model = written(tmp_path, MIXED)
    policies = ("prefer-cpu", "prefer-gpu", "prefer-npu", "max-performance", "max-efficiency", "min-overall-power")
    graphs = {policy: create_context(machine=ULTRA, policy=policy).compile(model) for policy in policies}
    latency_s = {policy: graph.plan.predicted.latency_s for policy, graph in graphs.items()}
    kinds = {policy: {d.partition(":")[0] for d in graph.plan.placement.values()} for policy, graph in graphs.items()}
    energy_j = {
        policy: trisect.split(model, list(graph.devices), machine=ULTRA, objective="energy").value
        for policy, graph in graphs.items()
    }
    assert kinds["prefer-cpu"] == {"cpu"}
    assert kinds["prefer-gpu"] == {"gpu"}
    assert kinds["prefer-npu"] == kinds["min-overall-power"] == {"npu"}
    assert all(latency_s["max-performance"] <= other for other in latency_s.values())
    assert latency_s["max-performance"] < min(latency_s[p] for p in policies if p.startswith("prefer-"))
    assert all(energy_j["max-efficiency"] <= other * 1.0001 for other in energy_j.values())
    placements = {tuple(graph.plan.placement.values()) for graph in graphs.values()}
    assert len(placements) == 5  # one unit draws least: preferring it and sparing power are one placement here
    assert graphs["max-efficiency"].plan.objective == "energy"


def test_low_power_selects_the_npu_and_high_performance_the_gpu(tmp_path: Path):
    model = written(tmp_path, MIXED)
    for machine in (ULTRA, "snapdragon-x-elite", "amd-ryzen-ai-9-hx-370"):
        low = create_context(machine=machine, power_preference="low-power").compile(model)
        high = create_context(machine=machine, power_preference="high-performance").compile(model)
        assert {device.partition(":")[0] for device in low.devices} == {"npu"}
        assert {device.partition(":")[0] for device in high.devices} == {"gpu"}
        assert low.accelerated
        assert not low.fallback


def test_a_server_of_many_gpus_is_one_context(tmp_path: Path):
    context = create_context(machine="nvidia-dgx-h200", accelerated=True, prefer="throughput")
    assert sum(device.kind == "gpu" for device in context.devices) == 8


def test_a_graph_reports_the_device_of_each_node_and_the_run_agrees(tmp_path: Path):
    model = written(tmp_path, SMALL)
    with create_context(devices="cpu").compile(model) as graph:
        x = np.linspace(0.5, 2, 6, dtype=np.float32).reshape(2, 3)
        outputs = graph.run({"x": x})
        np.testing.assert_allclose(outputs["y"], -np.exp(x), rtol=1e-5)
        assert set(graph.dispatched) == set(graph.devices)
        assert {graph.device_for(node) for node in graph.plan.placement} == set(graph.devices)
        assert not graph.accelerated
        with pytest.raises(InvalidInput, match="no node 'Exp_9'"):
            graph.device_for("Exp_9")


def test_the_engines_own_assignment_agrees(tmp_path: Path):
    model = written(tmp_path, SMALL)
    graph = create_context(devices="cpu:ort").compile(model)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(Path(graph.plan.folder) / graph.plan.segments[0].file, options)
    assigned = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in assigned} == {"CPUExecutionProvider"}
    named = {node.name for part in assigned for node in part.get_nodes()}
    assert named == {node for node in graph.plan.placement if graph.device_for(node) == "cpu:ort"}


def test_nodes_that_the_preferred_device_refuses_fall_back_and_are_named(tmp_path: Path):
    model = written(tmp_path, REFUSED_BY_OPENVINO)
    with pytest.raises(trisect.TrisectError, match="Det"):
        create_context(devices="cpu:openvino").compile(model)
    graph = create_context(devices="cpu").compile(model)
    assert graph.device_for("Det_1") == "cpu:ort"


def test_on_unsupported_error_refuses_instead(tmp_path: Path):
    model = written(tmp_path, MIXED)
    context = create_context(machine=ULTRA, power_preference="low-power", on_unsupported="error")
    assert context.compile(model).devices == ("npu:openvino",)
    with pytest.raises(FallbackForbidden, match=r"allows only npu:openvino: no device is left for node .LSTM_2"):
        context.compile(model, constraints={"forbid": {"op:LSTM": "npu"}})


def test_no_cpu_fallback_names_the_node(tmp_path: Path):
    model = written(tmp_path, MIXED)
    context = create_context(machine=ULTRA, accelerated=True, require=["no-cpu-fallback"])
    kinds = {device.partition(":")[0] for device in context.compile(model).devices}
    assert kinds <= {"gpu", "npu"}
    with pytest.raises(FallbackForbidden, match="LSTM_2"):
        context.compile(model, constraints={"forbid": {"op:LSTM": "gpu,npu"}})


def test_low_power_and_low_latency_together_are_refused_where_they_exclude_each_other(tmp_path: Path):
    model = written(tmp_path, MIXED)
    context = create_context(machine=ULTRA, power_preference="low-power", require=["low-power", "low-latency"])
    with pytest.raises(InfeasibleProblem, match=r"require='low-latency' is not met on npu:openvino,cpu:openvino"):
        context.compile(model)


def test_openvinos_device_strings_select_devices_and_set_hints(tmp_path: Path):
    context = create_context(devices="HETERO:GPU,CPU", machine=ULTRA)
    assert [device.id for device in context.devices] == ["gpu:openvino", "cpu:openvino"]
    assert context.openvino_devices == "HETERO:GPU,CPU"
    several = create_context(devices="MULTI:GPU,NPU", machine=ULTRA)
    assert several.selection.objective == "throughput"
    assert several.openvino_devices == "MULTI:NPU,GPU"  # one tier: no order within it
    with pytest.raises(InvalidInput, match="OpenVINO does not drive"):
        create_context(machine="nvidia-h200").openvino_devices  # noqa: B018
    with pytest.raises(UnknownDevice, match="unknown OpenVINO device 'TPU'; expected one of: CPU, GPU, NPU"):
        create_context(devices="HETERO:TPU", machine=ULTRA)
    with pytest.raises(InvalidInput, match="did you mean HETERO"):
        create_context(devices="HETRO:GPU", machine=ULTRA)


def test_hetero_splits_like_openvino(tmp_path: Path):
    import openvino

    model = written(tmp_path, SMALL)
    core = openvino.Core()
    theirs = core.query_model(core.read_model(model), "HETERO:CPU")
    graph = create_context(devices="HETERO:CPU").compile(model)
    assert {theirs[node] for node in ("Exp_0", "Neg_1", "Sqrt_2") if node in theirs} == {"CPU"}
    assert graph.devices == ("cpu:openvino",)


def test_the_users_policy_file_overrides_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = tmp_path / "policy.toml"
    policy.write_text('avoid = ["gpu"]\npower_preference = "low-power"\n')
    monkeypatch.setenv("TRISECT_POLICY", str(policy))
    context = create_context(machine=ULTRA, power_preference="high-performance")
    assert [device.kind for device in context.devices] == ["npu", "cpu"]
    assert context.notes == (
        "power_preference='high-performance' overridden: the user's policy sets power_preference='low-power'",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"avoid = [", "invalid TOML"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b'avoid = ["tpu"]', "unknown value for avoid: 'tpu'"),
        (b"colour = 1", "unknown context option 'colour'"),
        (b"x" * 100_000, "too large: at most 65536 bytes"),
    ],
)
def test_a_policy_that_cannot_be_read_is_never_ignored(tmp_path: Path, content: bytes, message: str):
    policy = tmp_path / "policy.toml"
    policy.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        create_context(machine=ULTRA, policy_file=policy)
    with pytest.raises(InvalidInput, match="cannot be read"):
        create_context(machine=ULTRA, policy_file=tmp_path / "missing.toml")


def test_listeners_are_called_when_a_device_disappears_and_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = written(tmp_path, SMALL)
    everything = engines.discover()
    here = list(everything)
    monkeypatch.setattr(engines, "discover", lambda: list(here))
    x = np.full((2, 3), 2, np.float32)
    expected = -np.exp(x)
    context = create_context(fallback=["cpu"])
    with context.compile(model, constraints={"force": {}}) as graph:
        changes = []
        graph.on_change(changes.append)
        first = graph.devices
        np.testing.assert_allclose(graph.run({"x": x})["y"], expected, rtol=1e-5)
        assert not graph.refresh()
        here[:] = [device for device in everything if device.id not in first]
        assert graph.refresh()
        assert not set(graph.devices) & set(first)
        np.testing.assert_allclose(graph.run({"x": x})["y"], expected, rtol=1e-5)
        here[:] = everything
        assert graph.refresh()
        assert graph.devices == first
        np.testing.assert_allclose(graph.run({"x": x})["y"], expected, rtol=1e-5)
    assert [(change.before, change.after) for change in changes] == [
        (first, changes[0].after),
        (changes[0].after, first),
    ]


def test_the_median_of_the_most_recent_runs_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_graph, "_MAX_LATENCIES", 3)
    graph = create_context(devices="cpu:ort").compile(written(tmp_path, SMALL))
    latencies_s = []
    with graph:
        for _ in range(7):
            graph.run({"x": np.ones((2, 3), np.float32)})
            latencies_s.append(graph.trace.latency_s)
    recorded = History().fastest_run(structure_key(onnx.load(tmp_path / "model.onnx")), "")
    assert recorded is not None
    assert recorded.latency_s == pytest.approx(statistics.median(latencies_s[-3:]))


def test_a_measured_run_answers_the_next_question(tmp_path: Path):
    model = written(tmp_path, SMALL)
    before = trisect.can_run(model, "cpu")
    assert before.confidence == "high"
    with create_context(devices="cpu:ort").compile(model) as graph:
        for _ in range(3):
            graph.run({"x": np.ones((2, 3), np.float32)})
    after = trisect.can_run(model, "cpu")
    assert after.from_history
    assert after.confidence == "measured"
    assert after.measured_devices == ("cpu:ort",)
    assert after.measured_latency_s is not None
    assert after.measured_latency_s > 0


def test_a_lost_device_is_replaced_within_the_requirements(tmp_path: Path):
    model = written(tmp_path, SMALL)
    x = np.full((2, 3), 2, np.float32)
    with create_context(devices="cpu").compile(model) as graph:
        changes = []
        graph.on_change(changes.append)
        (lost,) = graph.devices
        graph.run({"x": x})
        # What the runtime calls once a worker is gone for good; tests/runtime/faults kill real ones.
        made = graph._replan(graph.plan, [lost])
        assert lost not in {segment.device for segment in made.segments}
        assert [(change.before, lost in change.after) for change in changes] == [((lost,), False)]
        assert f"lost device {lost}" in changes[0].reason
        graph.close()
        np.testing.assert_allclose(graph.run({"x": x})["y"], -np.exp(x), rtol=1e-5)
        assert set(graph.dispatched) == set(graph.devices)
