"""OpenVINO's precision, state and unsupported types."""

from __future__ import annotations

import numpy as np
import pytest

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, StatefulModule
from trisect.runtime.errors import (
    InvalidInput,
    UnsupportedModel,
)

DEVICES = [device for device in engines.discover() if device.id in ("cpu:ort", "cpu:openvino")]


GROWING = (
    "g (float[b,3] x, float[b,p,3] past) => (float[b,q,3] present, float[b,3] total) "
    "{ one=Constant<value_ints=[1]>() u=Unsqueeze(x,one) present=Concat<axis=1>(past,u) "
    "  total=ReduceSum<keepdims=0>(present,one) }"
)


def by_id(name: str) -> Device:
    return next(device for device in DEVICES if device.id == name)


def test_strings_run_on_ort_and_are_refused_by_openvino(model):
    text = "g (string[n] x) => (string[n] y) { y = Identity(x) }"
    out = engines.load(model(text), by_id("cpu:ort")).run({"x": np.array(["a", "bc"])})["y"]
    assert list(out) == ["a", "bc"]
    with pytest.raises(UnsupportedModel, match="'x' holds strings"):
        engines.load(model(text), by_id("cpu:openvino"))


def test_openvino_computes_in_float32_unless_asked_to_be_fast(model):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((64, 256)).astype(np.float32), rng.standard_normal((256, 64)).astype(np.float32)
    text = model("g (float[64,256] a, float[256,64] b) => (float[64,64] y) { y = MatMul(a, b) }")
    exact = a.astype(np.float64) @ b.astype(np.float64)
    reference = engines.load(text, by_id("cpu:openvino")).run({"a": a, "b": b})["y"]
    fast = engines.load(text, by_id("cpu:openvino"), LoadOptions(precision="fast")).run({"a": a, "b": b})["y"]
    assert np.abs(reference - exact).max() < 1e-4
    assert np.abs(fast - exact).max() < 1.0


@pytest.mark.parametrize("operator", ["Dropout(x)", "Sum(x)", "Max(x)"])
def test_openvino_writes_an_output_that_is_an_input(model, operator):
    text = model(f"g (float[n,2] x) => (float[n,2] y, float[n,2] z) {{ y = {operator} z = Exp(y) }}")
    module = engines.load(text, by_id("cpu:openvino"))
    for x in (np.array([[1, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32)):
        outputs = module.run({"x": x})
        np.testing.assert_array_equal(outputs["y"], x)
        np.testing.assert_allclose(outputs["z"], np.exp(x), rtol=1e-5)


def test_openvino_keeps_state_from_run_to_run(model):
    options = LoadOptions(state={"past": "present"}, shapes={"b": 1})
    module = engines.load(model(GROWING), by_id("cpu:openvino"), options)
    assert isinstance(module, StatefulModule)
    assert [spec.name for spec in module.inputs] == ["x"]
    assert [spec.name for spec in module.outputs] == ["total"]
    x = np.array([[1, 2, 3]], np.float32)
    for count in (1, 2, 3):
        np.testing.assert_array_equal(module.run({"x": x})["total"], count * x)
    np.testing.assert_array_equal(module.get_state()["past"], np.repeat(x[:, None], 3, axis=1))
    module.set_state({"past": np.full((1, 4, 3), 10, np.float32)})
    np.testing.assert_array_equal(module.run({"x": x})["total"], 40 + x)
    module.reset_state()
    np.testing.assert_array_equal(module.run({"x": x})["total"], x)
    with pytest.raises(InvalidInput, match="'nothing' is no state"):
        module.set_state({"nothing": x})
