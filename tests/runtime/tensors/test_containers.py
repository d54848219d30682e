"""Elements of less than a byte are packed as in ONNX files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.runtime.typed_models import values
from trisect.runtime.tensors.containers import pack_bits, unpack_bits
from trisect.runtime.tensors.dtypes import bits_of


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn", "int2", "uint2"])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_elements_below_a_byte_are_packed_as_in_onnx(dtype, count):
    value = values(dtype, (count,))
    packed = pack_bits(value, bits_of(dtype))
    assert packed.tobytes() == onnx.numpy_helper.from_array(value).raw_data
    np.testing.assert_array_equal(unpack_bits(packed, bits_of(dtype), (count,), value.dtype), value)
