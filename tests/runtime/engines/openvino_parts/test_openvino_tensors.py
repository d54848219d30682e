"""OpenVINO reads the outputs of other engines without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from trisect.runtime.device import Device
from trisect.runtime.engines import discover, load

ARGMAX = (
    '<ir_version: 10, opset_import: ["" : 18]> g (float[n,3] x) => (int64[n] y) { y = ArgMax<axis=1, keepdims=0>(x) }'
)
DOUBLE = '<ir_version: 10, opset_import: ["" : 18]> g (int64[n] y) => (int64[n] z) { z = Add(y, y) }'


def device(name: str) -> Device:
    return next(device for device in discover() if device.id == name)


def test_openvino_reads_indices_of_onnx_runtime() -> None:
    first = load(parser.parse_model(ARGMAX).SerializeToString(), device("cpu:ort"))
    second = load(parser.parse_model(DOUBLE).SerializeToString(), device("cpu:openvino"))
    made = first.run({"x": np.eye(3, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(second.run({"y": made})["z"], [0, 2, 4])


@pytest.mark.parametrize("code", "lqLQ")
@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("bound", [True, False])
def test_openvino_reads_every_64_bit_integer_type_of_c(code: str, writeable: bool, bound: bool) -> None:
    dtype = np.dtype(code)
    if dtype.itemsize != 8:
        pytest.skip("32 bits on this system")
    text = DOUBLE.replace("int64", "uint64") if dtype.kind == "u" else DOUBLE
    module = load(parser.parse_model(text).SerializeToString(), device("cpu:openvino"))
    values = np.array([1, 2, 3]).astype(dtype)
    assert values.dtype.char == code
    values.flags.writeable = writeable
    if bound:
        result = np.zeros(3, dtype)
        module.bind({"y": values}, {"z": result}).run()
    else:
        result = module.run({"y": values})["z"]
    np.testing.assert_array_equal(result, [2, 4, 6])
