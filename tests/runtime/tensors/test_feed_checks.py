"""Feeds are checked once: what is valid passes unchanged, and what is not is refused in one line."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.runtime.typed_models import identity, model_of, tensor
from trisect.runtime import engines
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.errors import (
    InvalidInput,
)
from trisect.runtime.tensors.dtypes import dtype_of
from trisect.runtime.tensors.feed_checks import check_buffers, check_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec

(ORT,) = engines.find_devices("cpu:ort")


SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))


def test_wrong_lists_are_refused_before_anything_runs():
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    module = engines.load(
        model_of(nodes, [helper.make_value_info("s", SEQUENCE)], [tensor("n", "int64", [])]).SerializeToString(), ORT
    )
    assert module.run({"s": [np.zeros(2, np.float32), np.float32(1)]})["n"] == 2
    assert module.run({"s": []})["n"] == 0
    for bad, options in (
        ([np.zeros(2)], "element 0 is float64"),
        (np.zeros(2, np.float32), "is a ndarray, not a list"),
        (None, "not a list"),
        ([[1.0]], "element 0 is a list"),
    ):
        with pytest.raises(InvalidInput, match=options):
            module.run({"s": bad})
    with pytest.raises(InvalidInput, match="no fixed buffer"):
        check_buffers({"s": np.empty(0, object)}, module.inputs, {}, module.outputs)


def test_tensors_of_other_libraries_are_not_copied():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    foreign = SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)
    spec = read_signature(identity("float32", (2, 3))).inputs
    for value in (foreign, ort.OrtValue.ortvalue_from_numpy(array)):
        seen = check_feeds(spec, {"x": value})["x"]
        np.testing.assert_array_equal(seen, array)
        assert np.shares_memory(seen, array)


def test_a_tensor_that_cannot_be_read_is_refused_in_one_line():
    def fail(**_):
        raise BufferError("the tensor is on a device")

    spec = read_signature(identity("float32")).inputs
    away = SimpleNamespace(__dlpack__=fail, __dlpack_device__=lambda: (2, 0))
    with pytest.raises(InvalidInput, match=r"the tensor is on a device.*move it to the CPU"):
        check_feeds(spec, {"x": away})
    with pytest.raises(InvalidInput, match="is a list"):
        check_feeds(spec, {"x": [[1.0]]})


@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["float32", "int64", "bool", "bfloat16", "object"]))
@settings(max_examples=40)
def test_valid_feeds_pass_unchanged(shape, dtype):
    array = np.zeros(shape, dtype_of(dtype))
    checked = check_feeds([TensorSpec("x", dtype, tuple(shape))], {"x": array})["x"]
    assert checked is array


def test_a_foreign_byte_order_is_converted():
    array = np.arange(3).astype(">f4")
    checked = check_feeds([TensorSpec("x", "float32", (3,))], {"x": array})["x"]
    assert checked.dtype == np.float32
    assert checked.dtype.isnative
    np.testing.assert_array_equal(checked, [0, 1, 2])


def test_unknown_rank_takes_any_shape():
    spec = TensorSpec("x", "float32", ("...",))
    assert check_feeds([spec], {"x": np.zeros((2, 2), np.float32)})["x"].shape == (2, 2)


@pytest.mark.parametrize("dtype", ["object", "bfloat16", "int4", "seq(float64)"])
def test_a_float64_array_is_no_other_dtype(dtype: str) -> None:
    with pytest.raises(InvalidInput):
        check_feeds([TensorSpec("x", dtype, (2,))], {"x": np.zeros(2)})


def test_an_input_with_a_default_is_called_so() -> None:
    spec = TensorSpec("x", "float32", (2,))
    feeds = {"x": np.zeros(2, np.float32), "bias": np.zeros(2, np.float32)}
    with pytest.raises(InvalidInput, match="input 'bias' has a default"):
        check_feeds([spec], feeds, fixed=("bias",))
    with pytest.raises(InvalidInput, match="no input 'bias'"):
        check_feeds([spec], feeds)
