"""A module writes into given memory where its outputs are known beforehand, and says so where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from trisect.runtime.engines import find_devices, load
from trisect.runtime.engines.common import bound_module
from trisect.runtime.engines.common.bound_module import BoundModule, expected_outputs
from trisect.runtime.tensors.conversions import ConversionLog
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec

FLOAT = np.dtype("float32")


@pytest.fixture(params=["cpu:ort", "cpu:openvino"])
def negate(request, model):
    """y = -x, loaded on an engine."""
    (device,) = find_devices(request.param)
    bound = BoundModule(load(model("g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }"), device))
    yield bound
    bound.close()


@pytest.mark.parametrize(("inputs", "outputs", "shapes", "kinds"), [
    ([("n", 3)], [("n", 4), (2,)], [(5, 3)], [(5, 4), (2,)]),
    ([("n",), ("m", "n")], [("m", "n")], [(2,), (7, 2)], [(7, 2)]),
    ([("n", 3)], [("m", 3)], [(5, 3)], None),
    ([("?", 3)], [("?", 3)], [(5, 3)], None),
    ([("n", 3)], [("n", 3)], [(0, 3)], None),
    ([("n", 3)], [UNKNOWN_RANK], [(5, 3)], None),
    ([UNKNOWN_RANK], [(2, 2)], [(5, 3)], [(2, 2)]),
])  # fmt: skip
def test_outputs_are_known_from_the_declared_dimensions(inputs, outputs, shapes, kinds):
    specs = [
        [TensorSpec(f"{end}{number}", "float32", shape) for number, shape in enumerate(declared)]
        for end, declared in (("x", inputs), ("y", outputs))
    ]
    expected = expected_outputs(*specs, shapes)
    if kinds is None:
        assert expected is None
        return
    assert expected is not None
    assert list(expected.kinds.values()) == [(FLOAT, shape) for shape in kinds]
    assert expected.size_bytes == sum(4 * np.prod(shape) for shape in kinds)


def test_strings_have_no_buffer():
    x = [TensorSpec("x", "float32", (2,))]
    assert expected_outputs(x, [TensorSpec("y", "object", (2,))], [(2,)]) is None


def test_outputs_are_written_where_they_are_wanted(negate):
    for rows in (2, 5, 2):
        x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        expected = negate.expected_outputs({"x": x})
        assert expected.kinds == {"y": (FLOAT, (rows, 3))}
        y = np.empty((rows, 3), np.float32)
        assert negate.run_again({"x": x}, {"y": y}) is None
        assert negate.run_into({"x": x}, {"y": y}, keep=False)
        np.testing.assert_array_equal(y, -x)


def test_a_binding_is_used_again_for_the_same_memory(negate):
    x, y = np.ones((2, 3), np.float32), np.empty((2, 3), np.float32)
    assert negate.run_into({"x": x}, {"y": y}, keep=True)
    x[:] = 5  # the binding is of the memory, not of the numbers in it
    assert negate.run_again({"x": x}, {"y": y}) is True
    assert (y == -5).all()
    assert negate.run_again({"x": x.copy()}, {"y": y}) is None


def test_the_oldest_bindings_are_dropped(negate, monkeypatch):
    monkeypatch.setattr(bound_module, "_BINDINGS_MAX", 2)
    x = np.ones((1, 3), np.float32)
    buffers = [np.empty((1, 3), np.float32) for _ in range(3)]
    for y in buffers:
        assert negate.run_into({"x": x}, {"y": y}, keep=True)
    assert [negate.run_again({"x": x}, {"y": y}) for y in buffers] == [None, True, True]


def test_a_model_whose_shapes_are_wrong_is_run_without_buffers(model):
    """The file declares n rows, but the model computes as many as x has non-zero elements."""
    (device,) = find_devices("cpu:ort")
    text = "g (float[n] x) => (int64[1,n] y) { y = NonZero(x) }"
    bound = BoundModule(load(model(text), device))
    x = np.array([0, 1, 0, 2], np.float32)
    y = np.empty((1, 4), np.int64)
    assert bound.expected_outputs({"x": x}) is not None
    assert bound.run_into({"x": x}, {"y": y}, keep=True) is False
    assert bound.expected_outputs({"x": x}) is None  # it is not tried again
    assert bound.run({"x": x}, ConversionLog())["y"].tolist() == [[1, 3]]
    bound.close()
