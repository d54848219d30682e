"""Every ONNX dtype has a name and a numpy dtype."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from trisect.runtime.tensors.dtypes import bits_of, dtype_of, onnx_dtype_name, onnx_dtype_number

NUMBERS = [number for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_dtype_of_onnx_has_a_name_and_an_array(number):
    name = onnx_dtype_name(number)
    assert name is not None
    assert onnx_dtype_number(name) == number
    expected = helper.tensor_dtype_to_np_dtype(number)
    assert dtype_of(name) == expected
    if expected.kind != "O":
        assert bits_of(name) <= 8 * expected.itemsize
