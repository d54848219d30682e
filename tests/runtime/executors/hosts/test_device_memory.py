"""A device's intermediate tensors stay in its memory; a tensor that another device reads is copied once."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from trisect.runtime.device import Device
from trisect.runtime.engines import discover, load
from trisect.runtime.engines.base import DeviceModule, LoadOptions
from trisect.runtime.errors import EngineFailed, InvalidInput
from trisect.runtime.executors import threads
from trisect.runtime.sessions.session import Session

FAKE = Device("gpu:fake", "gpu", "fake", "a device that counts", reality="simulated")
BROKEN = -777.0


class FakeArray:
    """Memory that only the fake device may read."""

    alive: ClassVar[weakref.WeakSet[FakeArray]] = weakref.WeakSet()
    downloads = 0

    def __init__(self, hidden: np.ndarray) -> None:
        self.hidden = hidden.copy()
        self.dtype, self.shape, self.nbytes = hidden.dtype, hidden.shape, hidden.nbytes
        FakeArray.alive.add(self)

    def download(self, array: np.ndarray) -> None:
        FakeArray.downloads += 1
        array[...] = self.hidden


class FakeModule:
    """A model on the fake device, computed by ONNX Runtime; fails where an input begins with `BROKEN`."""

    def __init__(self, module) -> None:
        self._module = module
        self.device, self.inputs, self.outputs = FAKE, module.inputs, module.outputs
        self.uploads: Counter[str] = Counter()

    def upload(self, name: str, array: np.ndarray) -> FakeArray:
        assert isinstance(array, np.ndarray)
        self.uploads[name] += 1
        return FakeArray(array)

    def run_on_device(self, feeds: Mapping[str, FakeArray]) -> dict[str, FakeArray]:
        if any(array.hidden.size and array.hidden.flat[0] == BROKEN for array in feeds.values()):
            raise EngineFailed("it is told to fail")
        made = self._module.run({name: array.hidden for name, array in feeds.items()})
        return {name: FakeArray(array) for name, array in made.items()}

    def run(self, feeds):
        raise AssertionError("arrays went through the host")

    bind = run

    def close(self) -> None:
        self._module.close()


@pytest.fixture
def uploads(monkeypatch) -> Counter[str]:
    """How often each tensor went up to the fake device."""
    counted: Counter[str] = Counter()
    (cpu,) = (device for device in discover() if device.id == "cpu:ort")

    def load_faked(path, device, options):
        if device.id != FAKE.id:
            return load(path, device, options)
        module = FakeModule(load(path, cpu, options))
        module.uploads = counted
        return module

    monkeypatch.setattr(threads, "load", load_faked)
    FakeArray.downloads = 0
    return counted


@pytest.fixture
def webgpu() -> Device:
    result = next((device for device in discover() if device.id == "gpu:webgpu"), None)
    if result is None:
        pytest.skip("no gpu:webgpu here: it wants onnxruntime-ep-webgpu and a Vulkan driver, Mesa's lavapipe will do")
    return result


@pytest.fixture(params=["fake", "webgpu"])
def gpu(request) -> str:
    """A device with memory of its own: one that counts, and a real one where there is its driver."""
    if request.param == "webgpu":
        request.getfixturevalue("webgpu")
    request.getfixturevalue("uploads")
    return f"gpu:{request.param}"


@pytest.fixture
def planned(make_plan, vector):
    """A plan by hand, in which one device may be the fake one."""

    def plan(parts, outputs=("y",)):
        made = make_plan(parts, [vector("x")], [vector(name) for name in outputs])
        return replace(made, devices=(*made.devices, FAKE))

    return plan


def copies(session: Session, device: str) -> list[str]:
    """Tensors that were copied to or from a device, in order."""
    events = sorted(session.trace.events, key=lambda event: event.start_s)
    for event in events:
        assert event.kind != "convert" or event.device != device or event.size_bytes > 0
    return [event.name for event in events if event.kind == "convert" and event.device == device]


X = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
ONE = LoadOptions(threads=1)


def test_between_two_segments_of_one_device_nothing_is_copied(planned, gpu, uploads):
    plan = planned([(gpu, "g (float[n,3] x) => (float[n,3] t) { t = Add(x, x) }"),
                    (gpu, "g (float[n,3] t) => (float[n,3] y) { y = Abs(t) }")])  # fmt: skip
    with Session(plan, options=ONE) as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], np.abs(2 * X))
        assert copies(session, gpu) == ["x", "y"]
        assert [event.name for event in session.trace.events if event.kind == "transfer"] == []
    if gpu == FAKE.id:
        assert uploads == {"x": 1}
        assert FakeArray.downloads == 1


def test_a_segment_of_another_device_between_them_moves_only_what_it_reads_and_makes(planned, gpu, uploads):
    plan = planned([(gpu, "g (float[n,3] x) => (float[n,3] a, float[n,3] b) { a = Add(x, x)  b = Neg(x) }"),
                    ("cpu:ort", "g (float[n,3] a) => (float[n,3] c) { c = Abs(a) }"),
                    (gpu, "g (float[n,3] b, float[n,3] c) => (float[n,3] y) { y = Sub(c, b) }")])  # fmt: skip
    with Session(plan, options=ONE) as session:
        for x in (X, X + 1, np.zeros((0, 3), np.float32), X):
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.abs(2 * x) + x)
        assert copies(session, gpu) == ["x", "a", "c", "y"]
        moved = {(event.name, event.device) for event in session.trace.events if event.kind == "transfer"}
        assert moved == {("a", "cpu:ort"), ("c", gpu)}
        outs = list(session.stream({"x": X * k} for k in range(12)))
        for k, out in enumerate(outs):
            np.testing.assert_array_equal(out["y"], np.abs(2 * X * k) + X * k)


def test_what_several_segments_read_goes_up_once_an_item(planned, gpu, uploads):
    """The same array with other numbers in it is another item's."""
    plan = planned([(gpu, "g (float[n,3] x) => (float[n,3] a) { a = Neg(x) }"),
                    ("cpu:ort", "g (float[n,3] a) => (float[n,3] b) { b = Abs(a) }"),
                    (gpu, "g (float[n,3] x, float[n,3] b) => (float[n,3] c) { c = Add(x, b) }"),
                    (gpu, "g (float[n,3] b, float[n,3] c) => (float[n,3] y) { y = Mul(b, c) }")])  # fmt: skip
    x = X.copy()
    with Session(plan, options=ONE) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.abs(x) * (x + np.abs(x)))
            assert sorted(copies(session, gpu)) == ["a", "b", "x", "y"]
            x += 1
    if gpu == FAKE.id:
        assert uploads == {"x": 3, "b": 3}


def test_what_the_device_and_others_read_comes_down_once_and_does_not_go_up_again(planned, gpu, uploads):
    plan = planned([(gpu, "g (float[n,3] x) => (float[n,3] a) { a = Neg(x) }"),
                    ("cpu:ort", "g (float[n,3] a) => (float[n,3] b) { b = Abs(a) }"),
                    ("cpu:openvino", "g (float[n,3] a) => (float[n,3] c) { c = Add(a, a) }"),
                    (gpu, "g (float[n,3] a, float[n,3] b) => (float[n,3] y) { y = Add(a, b) }")],
                   ("a", "c", "y"))  # fmt: skip
    with Session(plan, options=ONE) as session:
        out = session.run({"x": X})
        assert sorted(copies(session, gpu)) == ["a", "b", "x", "y"]
    np.testing.assert_array_equal(out["a"], -X)
    np.testing.assert_array_equal(out["c"], -2 * X)
    np.testing.assert_array_equal(out["y"], np.abs(X) - X)
    if gpu == FAKE.id:
        assert uploads == {"x": 1, "b": 1}
        assert FakeArray.downloads == 2


def test_large_tensors_come_down_into_memory_that_is_used_again_and_stay_the_callers(planned, gpu, uploads):
    plan = planned([(gpu, "g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }")])
    x = np.ones((100_000, 3), np.float32)
    with Session(plan, options=ONE) as session:
        results = [session.run({"x": x * k})["y"] for k in range(4)]
    for k, y in enumerate(results):
        assert (y == -k).all()


def test_the_devices_memory_is_free_again(planned, uploads):
    plan = planned([("gpu:fake", "g (float[n,3] x) => (float[n,3] a, float[n,3] b) { a = Add(x, x)  b = Neg(x) }"),
                    ("cpu:ort", "g (float[n,3] a) => (float[n,3] c) { c = Abs(a) }"),
                    ("gpu:fake", "g (float[n,3] b, float[n,3] c) => (float[n,3] y) { y = Sub(c, b) }")])  # fmt: skip
    with Session(plan, options=ONE) as session:
        for size in (10, 40):
            list(session.stream(({"x": X * k} for k in range(size)), window=3))
            gc.collect()
            # Of the last runs: what they hold goes with the next one.
            assert len(FakeArray.alive) <= 3 * 6
        broken = X.copy()
        broken[0, 0] = BROKEN
        failed = list(session.stream(({"x": broken if k % 2 else X} for k in range(8)), on_error="yield"))
        assert [isinstance(result, EngineFailed) for result in failed] == [False, True] * 4
        for result in failed[::2]:
            np.testing.assert_array_equal(result["y"], np.abs(2 * X) + X)
        gc.collect()
        assert len(FakeArray.alive) <= 3 * 6
    del failed, result
    gc.collect()
    assert len(FakeArray.alive) == 0


def test_tensors_of_a_real_one(webgpu, model):
    module = load(model("g (float16[n] x) => (float16[n] y, int64[1] j) { y = Neg(x)  j = Shape(x) }"), webgpu)
    assert isinstance(module, DeviceModule)
    x = np.array([1, 2, 3], np.float16)
    made = module.run_on_device({"x": module.upload("x", x)})
    assert (made["y"].dtype, made["y"].shape, made["y"].nbytes) == (x.dtype, x.shape, x.nbytes)
    array = np.empty(x.shape, x.dtype)
    made["y"].download(array)
    np.testing.assert_array_equal(array, -x)
    assert isinstance(made["j"], np.ndarray)  # a size is the host's to know
    assert made["j"].tolist() == [3]
    with pytest.raises(InvalidInput, match="'x' is float32"):
        module.upload("x", X)
    module.close()
    with pytest.raises(EngineFailed, match="is closed"):
        module.run_on_device({})
