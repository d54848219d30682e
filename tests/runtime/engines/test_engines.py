"""Every installed engine implements the protocol: same results, bound buffers, one-line errors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import CancellableModule, LoadOptions, StatefulModule
from trisect.runtime.errors import (
    EngineFailed,
    InvalidInput,
    InvalidModel,
    RunCancelled,
    TrisectError,
)

DEVICES = [device for device in engines.discover() if device.id in ("cpu:ort", "cpu:openvino")]
ON_EVERY_DEVICE = pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.id)
TWO_OUTPUTS = (
    "g (float[n,3] x, float[3] s) => (float[n,3] y, float[n,3] z, float[n,3] x2) "
    "{ y=Add(x,s) z=Relu(x) x2=Identity(x) }"
)
GROWING = (
    "g (float[b,3] x, float[b,p,3] past) => (float[b,q,3] present, float[b,3] total) "
    "{ one=Constant<value_ints=[1]>() u=Unsqueeze(x,one) present=Concat<axis=1>(past,u) "
    "  total=ReduceSum<keepdims=0>(present,one) }"
)


def by_id(name: str) -> Device:
    return next(device for device in DEVICES if device.id == name)


@ON_EVERY_DEVICE
def test_run_computes_for_every_size_and_keeps_earlier_results(device, model):
    module = engines.load(model(TWO_OUTPUTS), device)
    rng = np.random.default_rng(0)
    results = []
    for rows in (2, 0, 5, 2):
        x, s = rng.standard_normal((rows, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
        results.append((x, s, module.run({"x": x, "s": s})))
    module.close()
    for x, s, out in results:
        assert list(out) == ["y", "z", "x2"]
        np.testing.assert_array_equal(out["y"], x + s)
        np.testing.assert_array_equal(out["z"], np.maximum(x, 0))
        np.testing.assert_array_equal(out["x2"], x)


@ON_EVERY_DEVICE
def test_a_run_can_be_cancelled_and_the_next_one_is_right(device, model):
    module = engines.load(model("g (float[n,n] x) => (float[n,n] y) { a=MatMul(x,x) y=MatMul(a,a) }"), device)
    assert isinstance(module, CancellableModule)
    x, is_running = np.eye(100, dtype=np.float32), threading.Event()

    def run_on_and_on():
        binding = module.bind({"x": x}, {"y": np.zeros_like(x)})
        while True:
            is_running.set()
            binding.run()
            module.run({"x": x})

    with ThreadPoolExecutor(1) as pool:
        runs = pool.submit(run_on_and_on)
        assert is_running.wait(60)
        while not runs.done():
            module.cancel()
    assert isinstance(runs.exception(), RunCancelled)
    module.cancel()  # without effect: nothing runs
    np.testing.assert_array_equal(module.run({"x": x * 2})["y"], x * 16)
    module.close()


@ON_EVERY_DEVICE
def test_a_module_keeps_symbolic_dimensions(device, model):
    module = engines.load(model(TWO_OUTPUTS), device)
    assert [(spec.name, spec.dtype, spec.shape) for spec in module.inputs] == [
        ("x", "float32", ("n", 3)), ("s", "float32", (3,))
    ]  # fmt: skip
    fixed = engines.load(model(TWO_OUTPUTS), device, LoadOptions(shapes={"n": 4}))
    assert fixed.outputs[0].shape == (4, 3)
    with pytest.raises(InvalidInput, match=r"'x' has shape \(2, 3\)"):
        fixed.run({"x": np.zeros((2, 3), np.float32), "s": np.zeros(3, np.float32)})


@ON_EVERY_DEVICE
def test_bound_buffers_are_read_and_written_in_place(device, model):
    module = engines.load(model(TWO_OUTPUTS), device)
    x, s, y = np.zeros((2, 3), np.float32), np.ones(3, np.float32), np.empty((2, 3), np.float32)
    binding = module.bind({"x": x, "s": s}, {"y": y})
    for value in (1, -2):
        x[:] = value
        binding.run()
        assert binding.output("y") is y
        np.testing.assert_array_equal(y, np.full((2, 3), value + 1))
        np.testing.assert_array_equal(binding.output("z"), np.full((2, 3), max(value, 0)))
    # A run in between must not disturb the binding, nor the other way round.
    other = module.run({"x": np.full((1, 3), 7, np.float32), "s": s})
    x[:] = 3
    binding.run()
    np.testing.assert_array_equal(y, np.full((2, 3), 4))
    np.testing.assert_array_equal(other["y"], np.full((1, 3), 8))


def test_ort_updates_one_array_as_input_and_output(model):
    module = engines.load(model("g (float[n] x) => (float[n] y) { y=Add(x,x) }"), by_id("cpu:ort"))
    buffer = np.array([1, 2], np.float32)
    binding = module.bind({"x": buffer}, {"y": buffer})
    for _ in range(3):
        binding.run()
    np.testing.assert_array_equal(buffer, [8, 16])


@ON_EVERY_DEVICE
def test_buffers_that_cannot_be_used_in_place_are_refused(device, model):
    module = engines.load(model(TWO_OUTPUTS), device)
    good, s = np.zeros((2, 3), np.float32), np.zeros(3, np.float32)
    turned = np.zeros((3, 2), np.float32).T
    locked = np.zeros((2, 3), np.float32)
    locked.flags.writeable = False
    for inputs, outputs in (
        ({"x": turned, "s": s}, {}),
        ({"x": good, "s": s}, {"y": turned}),
        ({"x": good, "s": s}, {"y": locked}),
        ({"x": good, "s": s}, {"y": good.astype(np.float64)}),
        ({"x": good, "s": s}, {"nothing": good}),
        ({"x": good}, {}),
    ):
        with pytest.raises(InvalidInput):
            module.bind(inputs, outputs)


@ON_EVERY_DEVICE
@pytest.mark.parametrize("make", [lambda a: a.T.copy().T, lambda a: np.repeat(a, 2, axis=1)[:, ::2], np.asarray])
def test_any_memory_order_gives_the_same_result(device, model, make):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    fed = make(x)
    fed.flags.writeable = False
    out = engines.load(model(TWO_OUTPUTS), device).run({"x": fed, "s": np.ones(3, np.float32)})
    np.testing.assert_array_equal(out["y"], x + 1)


@ON_EVERY_DEVICE
@pytest.mark.parametrize(("onnx_type", "dtype"), [
    ("float", np.float32), ("float16", np.float16), ("double", np.float64), ("bfloat16", ml_dtypes.bfloat16),
    ("int64", np.int64), ("int32", np.int32), ("int8", np.int8), ("uint8", np.uint8), ("bool", np.bool_),
])  # fmt: skip
def test_dtypes_pass_through_unchanged(device, model, onnx_type, dtype):
    values = np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    text = f"g ({onnx_type}[n,3] x) => ({onnx_type}[3,n] y) {{ y = Transpose(x) }}"
    out = engines.load(model(text), device).run({"x": values})["y"]
    assert out.dtype == values.dtype
    np.testing.assert_array_equal(out, values.T)


@ON_EVERY_DEVICE
def test_scalars_stay_scalars(device, model):
    out = engines.load(model("g (float x) => (float y) { y = Neg(x) }"), device).run({"x": np.float32(2)})["y"]
    assert out.shape == ()
    assert out == -2


@ON_EVERY_DEVICE
def test_damaged_models_are_one_line_errors(device, model, tmp_path):
    sound = model(TWO_OUTPUTS)
    for bad in (b"", b"hello world", sound[: len(sound) // 2], b"\x3a\xff\xff\xff\xff\x7f" + sound):
        path = tmp_path / "bad.onnx"
        path.write_bytes(bad)
        for value in (bad, path):
            with pytest.raises(InvalidModel) as caught:
                engines.load(value, device)
            assert "\n" not in str(caught.value)
    with pytest.raises(InvalidModel, match=r"gone\.onnx"):
        engines.load(tmp_path / "gone.onnx", device)


@ON_EVERY_DEVICE
def test_no_truncated_model_raises_a_library_error(device, model):
    sound = model(TWO_OUTPUTS)

    def messages(cut: bytes) -> str:
        try:
            engines.load(cut, device).close()
        except TrisectError as error:
            return str(error)
        return ""  # a cut between two fields may leave a model

    lines = [messages(sound[:length]) for length in range(0, len(sound), 7)]
    assert any(lines)
    assert all("\n" not in line for line in lines)


@ON_EVERY_DEVICE
def test_unknown_operators_and_bad_sizes_name_the_device(device, model):
    with pytest.raises(EngineFailed, match=rf"^{device.id} cannot load the model: .*Foo"):
        engines.load(model("g (float[n] x) => (float[n] y) { y = none.Foo(x) }"), device)
    module = engines.load(model("g (float[n,3] x, float[k,3] y) => (float[m,3] z) { z = Add(x, y) }"), device)
    with pytest.raises(EngineFailed, match=rf"^{device.id} could not run: ") as caught:
        module.run({"x": np.zeros((2, 3), np.float32), "y": np.zeros((3, 3), np.float32)})
    assert "\n" not in str(caught.value)
    assert module.run({"x": np.ones((2, 3), np.float32), "y": np.ones((1, 3), np.float32)})["z"].sum() == 12


@ON_EVERY_DEVICE
def test_a_closed_module_raises_an_error(device, model):
    module = engines.load(model(TWO_OUTPUTS), device)
    module.close()
    module.close()
    with pytest.raises(EngineFailed, match="closed"):
        module.run({"x": np.zeros((2, 3), np.float32), "s": np.zeros(3, np.float32)})


@ON_EVERY_DEVICE
def test_external_weights_are_found_beside_the_model(device, tmp_path):
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    whole = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    path = tmp_path / "external.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_array_equal(engines.load(path, device).run({"x": x})["y"], x @ weight)


def test_an_engine_without_state_leaves_inputs_as_they_are(model):
    module = engines.load(model(GROWING), by_id("cpu:ort"), LoadOptions(state={"past": "present"}))
    assert not isinstance(module, StatefulModule)
    assert [spec.name for spec in module.inputs] == ["x", "past"]
    out = module.run({"x": np.ones((1, 3), np.float32), "past": np.zeros((1, 0, 3), np.float32)})
    assert out["present"].shape == (1, 1, 3)


@ON_EVERY_DEVICE
def test_threads_and_extra_settings_reach_the_engine(device, model):
    extra = {"session.disable_prepacking": "1"} if device.engine == "ort" else {"PERF_COUNT": "YES"}
    options = LoadOptions(threads=1, spin=True, extra=extra)
    out = engines.load(model(TWO_OUTPUTS), device, options).run(
        {"x": np.ones((1, 3), np.float32), "s": np.ones(3, np.float32)}
    )
    np.testing.assert_array_equal(out["y"], np.full((1, 3), 2))
