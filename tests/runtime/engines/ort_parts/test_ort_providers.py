"""Execution providers beside the CPU's: correct results, and errors that name unsupported nodes, where installed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines import cuda, ort_ep, qnn, webgpu
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.ort_parts import ort_providers as _ort_providers
from trisect.runtime.errors import EngineFailed, EngineMissing, InvalidInput, UnknownDevice

PLUGINS = {"npu:qnn": "onnxruntime_qnn", "gpu:webgpu": "onnxruntime_ep_webgpu", "gpu:cuda": "onnxruntime-gpu"}
TOLERANCE = {"npu:qnn": 5e-3, "gpu:webgpu": 1e-5, "gpu:cuda": 1e-5}
MLP = """
g (float[4,8] x) => (float[4,8] y, float[4] s) <float[8,8] w = {%s}> {
    a = MatMul(x, w) r = Relu(a) y = Softmax(r) axes = Constant<value_ints=[1]>() s = ReduceMax<keepdims=0>(r, axes) }
""" % ", ".join(f"{value:.6f}" for value in np.random.default_rng(0).standard_normal(64))  # noqa: UP031


@pytest.fixture(params=list(PLUGINS))
def device(request) -> Device:
    result = {device.id: device for device in engines.discover()}
    if request.param not in result:
        name = request.param.partition(":")[2]
        pytest.skip(f"{request.param}: {engines.unavailable().get(name, 'not on this machine')}")
    return result[request.param]


def numpy_mlp(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w = np.array([float(f"{v:.6f}") for v in np.random.default_rng(0).standard_normal(64)], np.float32).reshape(8, 8)
    hidden = np.maximum(x.astype(np.float64) @ w, 0)
    grown = np.exp(hidden - hidden.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True), hidden.max(1)


def test_a_device_states_whether_it_is_hardware(device):
    assert device.kind == device.id.partition(":")[0]
    assert device.engine_version
    if device.engine == "qnn":
        assert device.reality == ("simulated" if qnn._is_simulated() else "hardware")
        assert device.limits.static_shapes
    if device.engine == "webgpu":
        software = _ort_providers.kind_of(_ort_providers.ep_devices(webgpu.EP)[0]) == "cpu"
        assert device.reality == ("software" if software else "hardware")


def test_a_device_computes_the_results_of_numpy(device, model):
    module = engines.load(model(MLP), device)
    for seed in range(2):
        x = np.random.default_rng(seed).standard_normal((4, 8)).astype(np.float32)
        out = module.run({"x": x})
        for name, wanted in zip("ys", numpy_mlp(x), strict=True):
            np.testing.assert_allclose(out[name], wanted, rtol=TOLERANCE[device.id], atol=TOLERANCE[device.id])
    module.close()
    with pytest.raises(EngineFailed, match="closed"):
        module.run({"x": x})


def test_bound_buffers_are_read_at_every_run(device, model):
    """A device with memory of its own copies inputs at binding: the next run must copy them again."""
    module = engines.load(model("g (float[16] x) => (float[16] y, float[16] z) { y=Neg(x) z=Relu(x) }"), device)
    x, y = np.zeros(16, np.float32), np.empty(16, np.float32)
    binding = module.bind({"x": x}, {"y": y})
    for value in (1, -2, 0.5):
        x[:] = value
        binding.run()
        assert binding.output("y") is y
        np.testing.assert_allclose(y, np.full(16, -value), rtol=1e-3)
        np.testing.assert_allclose(binding.output("z"), np.full(16, max(value, 0)), rtol=1e-3)


def test_unsupported_nodes_are_named_and_never_run_on_the_cpu(device):
    text = "tokens"
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="fine"),
        helper.make_node("Det", ["r"], ["y"], name=text),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(EngineFailed, match=rf"^{device.id} cannot load the model: .*Det") as caught:
        engines.load(model.SerializeToString(), device)
    assert "\n" not in str(caught.value)
    assert "Relu" not in str(caught.value)


def test_symbolic_dimensions_are_bound_or_refused(device, model):
    text = model("g (float[n,8] x) => (float[n,8] y) { y=Relu(x) }")
    module = engines.load(text, device, LoadOptions(shapes={"n": 2}))
    assert module.run({"x": np.full((2, 8), -1, np.float32)})["y"].sum() == 0
    with pytest.raises(InvalidInput, match=r"\(2, 8\)"):
        module.run({"x": np.zeros((3, 8), np.float32)})
    if device.limits.static_shapes:
        with pytest.raises(EngineFailed, match=r"static shapes, and 'x' has 'n'; bind it with --shape n=NUMBER"):
            engines.load(text, device)


def test_the_npu_runs_quantised_operators_whole():
    device = next((device for device in engines.discover() if device.id == "npu:qnn"), None)
    if device is None:
        pytest.skip(engines.unavailable()["qnn"])
    rng = np.random.default_rng(0)
    weight, x = rng.integers(-100, 100, (8, 8)).astype(np.int8), rng.standard_normal((4, 8)).astype(np.float32)
    constants = {"s": np.float32(0.03), "z": np.uint8(128), "w": weight, "ws": np.float32(0.01), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
        helper.make_node("MatMul", ["d", "dw"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "qdq", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    cpu = next(device for device in engines.discover() if device.id == "cpu:ort")
    here, there = (engines.load(model, where).run({"x": x})["y"] for where in (cpu, device))
    assert np.abs(here - there).max() <= 2 * 0.03  # two steps of the quantisation


def test_a_simulator_prints_nothing_to_standard_output():
    if "npu:qnn" not in {device.id for device in engines.discover()}:
        pytest.skip(engines.unavailable()["qnn"])
    code = """
import numpy as np
from onnx import parser
from trisect.runtime import engines
text = '<ir_version: 10, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) { y=Neg(x) }'
device = engines.find_devices("npu:qnn")[0]
print(engines.load(parser.parse_model(text).SerializeToString(), device).run({"x": np.ones(4, np.float32)})["y"].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(4,)\n"


@pytest.mark.parametrize(("name", "package"), [("qnn", "onnxruntime_qnn"), ("webgpu", "onnxruntime_ep_webgpu")])
def test_a_plugin_that_is_not_installed_names_its_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    engines._inventory.cache_clear()
    try:
        assert f"pip install 'trisect[{name}]'" in engines.unavailable()[name]
        kind = "npu" if name == "qnn" else "gpu"
        with pytest.raises(EngineMissing, match=rf"'{name}' cannot be used here: .*trisect\[{name}\]"):
            engines.find_devices(f"cpu:ort,{kind}:{name}")
        with pytest.raises(UnknownDevice):
            engines.find_devices("cpu:nonsense")
    finally:
        monkeypatch.undo()
        engines._inventory.cache_clear()


def test_cuda_without_its_package_is_refused_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "_LIBRARIES", ("not-there.so",))
    with pytest.raises(EngineMissing, match=r"onnxruntime-gpu is not installed; pip install 'trisect\[cuda\]'"):
        cuda.CudaEngine().devices()


def test_a_library_without_a_provider_is_a_one_line_error(tmp_path):
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(EngineMissing, match=r"libbroken\.so cannot be loaded: ") as caught:
        _ort_providers.register("BrokenExecutionProvider", str(broken))
    assert "\n" not in str(caught.value)


def unit(ep_name: str, kind: str, **metadata: str) -> SimpleNamespace:
    hardware = SimpleNamespace(type=SimpleNamespace(name=kind), vendor="ACME", metadata=metadata)
    return SimpleNamespace(ep_name=ep_name, device=hardware, ep_metadata={"version": "7.1"})


def test_every_provider_that_onnx_runtime_lists_becomes_a_device(monkeypatch):
    listed = [
        unit("CPUExecutionProvider", "CPU"),
        unit("QNNExecutionProvider", "NPU"),
        unit("DmlExecutionProvider", "GPU", Description="ACME Radiance"),
        unit("DmlExecutionProvider", "GPU"),
        unit("OpenVINOExecutionProvider", "NPU"),
    ]
    monkeypatch.setattr(ort_ep.ort, "get_ep_devices", lambda: listed)
    devices = ort_ep.OrtProviderEngine().devices()
    assert [(d.id, d.kind, d.name) for d in devices] == [
        ("gpu:dml", "gpu", "ACME Radiance"),
        ("gpu:dml#1", "gpu", "DmlExecutionProvider on ACME"),
        ("npu:openvino-ep", "npu", "OpenVINOExecutionProvider on ACME"),
    ]
    assert all((d.engine, d.engine_version) == ("ort_ep", "7.1") for d in devices)
    monkeypatch.setattr(ort_ep.ort, "get_ep_devices", list)
    with pytest.raises(EngineFailed, match="gpu:dml is gone"):
        ort_ep.OrtProviderEngine().load(b"", devices[0], LoadOptions())


def test_a_provider_that_a_user_registered_runs(monkeypatch, model):
    """Uses a plugin that has an engine of its own, as if it had none."""
    if not _ort_providers.ep_devices(webgpu.EP) or "webgpu" in engines.unavailable():
        pytest.skip("the WebGPU plugin or its driver is not installed")
    monkeypatch.setattr(ort_ep, "_OWN_ENGINES", ("CPUExecutionProvider", qnn.EP))
    device = ort_ep.OrtProviderEngine().devices()[0]
    assert device.id == f"{device.kind}:webgpu"
    module = ort_ep.OrtProviderEngine().load(
        model("g (float[4] x) => (float[4] y) { y=Neg(x) }"), device, LoadOptions()
    )
    np.testing.assert_array_equal(module.run({"x": np.ones(4, np.float32)})["y"], -np.ones(4))


def test_libraries_named_in_the_environment_are_registered(monkeypatch):
    asked = []
    monkeypatch.setattr(ort_ep, "register", lambda name, library: asked.append((name, library)))
    monkeypatch.setattr(ort_ep.ort, "get_ep_devices", list)
    monkeypatch.setenv(ort_ep.ENVIRONMENT, "My=/a/libmy.so")
    assert ort_ep.OrtProviderEngine().devices() == []
    assert asked == [("My", "/a/libmy.so")]
    monkeypatch.setenv(ort_ep.ENVIRONMENT, "nonsense")
    with pytest.raises(EngineMissing, match="write it as NAME=LIBRARY"):
        ort_ep.OrtProviderEngine().devices()


@pytest.mark.parametrize(
    ("engine", "provider"),
    [(qnn.QnnEngine, qnn.EP), (webgpu.WebGpuEngine, webgpu.EP), (cuda.CudaEngine, cuda.EP)],
)
def test_a_device_that_is_gone_is_a_one_line_error(monkeypatch, engine, provider, model):
    monkeypatch.setattr(_ort_providers.ort, "get_ep_devices", list)
    device = Device(f"gpu:{engine.name}", "gpu", engine.name, "x", native=provider)
    with pytest.raises(EngineFailed, match=rf"{device.id} is gone: .*; see trisect devices"):
        engine().load(model("g (float[4] x) => (float[4] y) { y=Neg(x) }"), device, LoadOptions())


def test_the_second_of_two_units_is_the_second():
    units = ["first", "second"]
    assert _ort_providers.unit_of(Device("gpu:cuda", "gpu", "cuda", "x"), units) == "first"
    assert _ort_providers.unit_of(Device("gpu:cuda#1", "gpu", "cuda", "x"), units) == "second"
    with pytest.raises(EngineFailed, match="gpu:cuda#2 is gone"):
        _ort_providers.unit_of(Device("gpu:cuda#2", "gpu", "cuda", "x"), units)


def test_cuda_through_a_package_that_has_it_built_in(monkeypatch, tmp_path):
    """Without a GPU the provider is listed too: running one operator decides."""
    monkeypatch.setattr(cuda, "_LIBRARIES", ("onnxruntime_validation.py",))  # any file that is there
    monkeypatch.setattr(cuda, "register", lambda *_: None)
    monkeypatch.setattr(cuda, "ep_devices", lambda name: [])
    monkeypatch.setattr(cuda.ort, "get_available_providers", lambda: [cuda.EP])
    tried = []
    monkeypatch.setattr(cuda, "open_module", lambda *words: tried.append(words[1].id) or SimpleNamespace(close=list))
    cuda._try.cache_clear()
    assert [device.id for device in cuda.CudaEngine().devices()] == tried == ["gpu:cuda"]

    def broken(*_):
        raise EngineFailed("no CUDA-capable device is detected")

    monkeypatch.setattr(cuda, "open_module", broken)
    cuda._try.cache_clear()
    with pytest.raises(EngineMissing, match="finds no NVIDIA GPU: no CUDA-capable device"):
        cuda.CudaEngine().devices()
    cuda._try.cache_clear()
