"""A null device returns outputs with the names, dtypes and shapes of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trisect.runtime import engines
from trisect.runtime.device import Limits
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.null import ENVIRONMENT, NullEngine, null_devices
from trisect.runtime.errors import EngineFailed, EngineMissing, InvalidInput, UnknownDevice
from trisect.runtime.sessions.session import Session

NULL = null_devices("npu", 1)[0]


def shapes(module, **feeds):
    return {name: (array.shape, array.dtype.name) for name, array in module.run(feeds).items()}


def test_null_devices_are_listed_only_when_requested(monkeypatch):
    assert "null" not in {device.engine for device in engines.discover()}
    monkeypatch.setenv(ENVIRONMENT, "npu, gpu:2")
    assert [device.id for device in NullEngine().devices()] == ["npu:null", "gpu:null", "gpu:null#1"]
    assert {device.reality for device in NullEngine().devices()} == {"simulated"}
    for wrong in ("tpu", "npu:x", "npu:0", "npu:-1", "npu:999999999"):
        monkeypatch.setenv(ENVIRONMENT, wrong)
        with pytest.raises(EngineMissing, match=wrong):
            NullEngine().devices()


def test_shapes_are_those_of_a_real_engine(model):
    real = next(device for device in engines.discover() if device.id == "cpu:ort")
    text = """
        g (float[n,3] x, float[m,3] t, string[n] names)
        => (float[n,3] y, float[k,3] c, float[3,n] u, string[n] s, bool b)
        { y = Relu(x) c = Concat<axis=0>(x, t) u = Transpose(x) s = Identity(names)
          zero = Constant<value = float {0}>() b = Equal(zero, zero) }"""
    feeds = {
        "x": np.ones((2, 3), np.float32), "t": np.ones((4, 3), np.float32), "names": np.array(["a", "b"], object)
    }  # fmt: skip
    module = engines.load(model(text), NULL)
    assert shapes(module, **feeds) == shapes(engines.load(model(text), real), **feeds)
    assert not module.run(feeds)["y"].any()
    with pytest.raises(InvalidInput, match="'x' is missing"):
        module.run({})
    module.close()
    with pytest.raises(EngineFailed, match="closed"):
        module.run(feeds)


def test_a_shape_that_depends_on_values_is_refused(model):
    module = engines.load(model("g (float[n] x) => (int64[r,k] i) { i = NonZero(x) }"), NULL)
    with pytest.raises(EngineFailed, match="cannot infer the shape of 'i'"):
        module.run({"x": np.ones(3, np.float32)})


def test_bound_buffers_are_set_to_zero(model):
    module = engines.load(model("g (float[n] x) => (float[n] y, float[n] z) { y = Neg(x) z = Abs(x) }"), NULL)
    x, y = np.ones(3, np.float32), np.ones(3, np.float32)
    binding = module.bind({"x": x}, {"y": y})
    binding.run()
    assert binding.output("y") is y
    assert not y.any()
    assert binding.output("z").shape == (3,)
    with pytest.raises(EngineFailed, match=r"shape \(3,\), the buffer has \(4,\)"):
        module.bind({"x": x}, {"y": np.ones(4, np.float32)})


def test_a_null_device_respects_its_limits(model):
    strict = replace(NULL, limits=Limits(static_shapes=True))
    text = model("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    with pytest.raises(EngineFailed, match="static shapes"):
        engines.load(text, strict)
    assert shapes(engines.load(text, strict, LoadOptions(shapes={"n": 5})), x=np.ones(5, np.float32)) == {
        "y": ((5,), "float32")
    }


def test_a_plan_runs_on_null_devices_that_are_not_listed(make_plan, vector):
    parts = [("npu:null", "g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }")]
    plan = make_plan(parts, [vector("x")], [vector("y")])
    plan = replace(plan, devices=(NULL,))
    with Session(plan) as session:
        assert session.run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)


def test_devices_are_those_that_the_engine_lists(model) -> None:
    """A plan could name another kind of device, a virtual one of the vendor, or one that is not here."""
    content = model("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    (here,) = engines.find_devices("cpu:ort")
    for other in (
        replace(here, id="npu:qnn", kind="npu"),
        replace(here, kind="npu"),
        replace(here, native="AzureExecutionProvider"),
        replace(here, engine="openvino", native="BATCH:CPU(9)"),
        replace(here, reality="simulated"),
        replace(NULL, id="cpu:null"),
        replace(NULL, reality="hardware"),
        replace(NULL, id="npu:null#x"),
    ):
        with pytest.raises(UnknownDevice, match="split the model again"):
            engines.load(content, other)
    engines.load(content, replace(here, name="another name")).close()
    assert engines.load(content, replace(here, name="another name")).device == here
