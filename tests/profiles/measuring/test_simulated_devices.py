"""Plans can be made for simulated devices: measured ones, and null devices with a given profile."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import trisect
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.measuring import device_measurement as measuring
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile
from trisect.profiles.stored.provenance import provenance
from trisect.runtime import engines
from trisect.runtime.engines.null import ENVIRONMENT, null_devices


@pytest.fixture
def null(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, "npu,gpu")
    monkeypatch.setenv(store.PROFILES_VARIABLE, str(tmp_path))
    engines.rescan()
    yield [*null_devices("npu", 1), *null_devices("gpu", 1)]
    monkeypatch.undo()
    engines.rescan()


@pytest.fixture
def products(tmp_path):
    """Two matrix-vector products with an activation between them."""
    weights = [np.random.default_rng(i).standard_normal((64, 64)).astype(np.float32) / 8 for i in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="bent"),
        helper.make_node("Gemm", ["b", "w1"], ["y"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    initializers = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], initializers)
    path = tmp_path / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_measured_null_device_has_a_cost_for_every_class(null, monkeypatch):
    monkeypatch.setattr(measuring, "read_bandwidth_bytes_per_s", lambda: 1e10)
    costs = ProfileCosts(measuring.measure(null))
    for op_class in OpClass:
        work = OpFeatures("Any", op_class, 1e6, 10**5, 10**4, 0, "float32")
        for device in null:
            assert 0 < costs.node_time_s(work, device.id) < 1.0


def test_a_null_device_costs_what_its_profile_says(null, products):
    """The GPU takes one second per operation; the NPU a millisecond, and 5 ms per call."""

    def value(device, second_per_flop, call_s):
        points = tuple(
            Point(f"{kind}:{flops:g}", kind, "given", flops, 0, flops * second_per_flop)
            for kind in (OpClass.MATVEC, OpClass.ELEMENTWISE)
            for flops in (1e2, 1e5)
        )
        return DeviceProfile(device.id, device.name, device.engine_version, call_s, 1e-9, points)

    npu, gpu = null
    links = tuple(Link(a.id, b.id, 7e-3, None) for a, b in ((npu, gpu), (gpu, npu)))
    devices = {npu.id: value(npu, 1e-3, 5e-3), gpu.id: value(gpu, 1.0, 1e-9)}
    store.save(Profile(provenance(null, None), "float32", devices, links), store.default_path())
    flops = 2 * 64 * 64
    both = trisect.split(products, devices="npu:null,gpu:null", constraints={"force": {"bent": "gpu:null"}})
    assert {both.placement[name] for name in ("first", "second")} == {"npu:null"}
    expected_s = 2 * (5e-3 + flops * 1e-3) + 64 * 1.0 + 2 * 7e-3
    assert both.predicted.latency_s == pytest.approx(expected_s, rel=1e-6)
    with trisect.Session(both) as session:
        assert session.run({"x": np.ones((1, 64), np.float32)})["y"].shape == (1, 64)


def test_products_are_planned_and_run_on_the_npu_simulator(monkeypatch, tmp_path, products):
    pytest.importorskip("onnxruntime_qnn")
    monkeypatch.setenv(store.PROFILES_VARIABLE, str(tmp_path))
    small = [case for case in measuring.small_cases() if case.op_class in (OpClass.MATVEC, OpClass.ELEMENTWISE)]
    monkeypatch.setattr(measuring, "small_cases", lambda: small[:2])
    monkeypatch.setattr(measuring, "standard_cases", lambda: small)
    monkeypatch.setattr(measuring, "read_bandwidth_bytes_per_s", lambda: 1e10)
    store.save(measuring.measure(engines.find_devices("npu:qnn,cpu:ort"), budget_s=600), store.default_path())
    constraints = {"force": {"op:MatMul": "npu:qnn", "op:Gemm": "npu:qnn"}}
    plan = trisect.split(products, devices="npu:qnn,cpu:ort", constraints=constraints)
    measured = store.load(store.default_path()).devices["npu:qnn"]
    assert any(point.op_class is OpClass.MATVEC for point in measured.points)
    assert {plan.placement[name] for name in ("first", "second")} == {"npu:qnn"}
    assert trisect.verify(plan).ok
