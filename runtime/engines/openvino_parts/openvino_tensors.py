"""Numpy arrays as OpenVINO tensors and back, over the same memory wherever that is possible."""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import openvino as ov

from ...tensors.containers import pack_bits, unpack_bits
from ...tensors.conversions import ConversionLog
from ...tensors.dtypes import bits_of, dtype_of
from ...tensors.tensor_spec import TensorSpec

NON_NUMPY_TYPES = {
    "bfloat16": ov.Type.bf16,
    "float8_e4m3fn": ov.Type.f8e4m3,
    "float8_e5m2": ov.Type.f8e5m2,
    "float8_e8m0fnu": ov.Type.f8e8m0,
    "float4_e2m1fn": ov.Type.f4e2m1,
    "int4": ov.Type.i4,
    "uint4": ov.Type.u4,
    "uint2": ov.Type.u2,
}
"""OpenVINO's types for the dtypes that numpy lacks."""
_NON_NUMPY_DTYPES = frozenset(dtype_of(name) for name in NON_NUMPY_TYPES)
_LONG_LONG = {"q": np.int64, "Q": np.uint64} if np.dtype("q") == np.int64 else {}
"""C's long long, the dtype of ONNX Runtime's 64-bit integers: equal to int64 for numpy, but unknown to OpenVINO."""


def as_tensor(array: np.ndarray, name: str = "", log: ConversionLog | None = None) -> ov.Tensor:
    """Return a tensor over the array's memory; over a copy where several elements share a byte."""
    if array.dtype.char in _LONG_LONG:
        array = array.view(_LONG_LONG[array.dtype.char])
    if array.dtype in _NON_NUMPY_DTYPES:
        ov_type = NON_NUMPY_TYPES[array.dtype.name]
        bits = bits_of(array.dtype.name)
        if bits >= 8:
            return ov.Tensor(array.view(f"u{bits // 8}"), ov.Shape(array.shape), ov_type)
        start_s = time.perf_counter()
        raw = pack_bits(array, bits)
        if log is not None:
            log.record(name, start_s, raw.nbytes)
        return ov.Tensor(raw, ov.Shape(array.shape), ov_type)
    if not array.flags.writeable:  # only the constructor with a type accepts read-only memory
        return ov.Tensor(array, array.shape, ov.Type(array.dtype))
    return ov.Tensor(array, shared_memory=True)


def as_array(tensor: ov.Tensor, spec: TensorSpec, log: ConversionLog | None = None) -> np.ndarray:
    data = cast("np.ndarray", tensor.data)
    if spec.dtype not in NON_NUMPY_TYPES:
        return data
    dtype, bits = dtype_of(spec.dtype), bits_of(spec.dtype)
    if bits >= 8:
        return data.view(dtype)
    start_s = time.perf_counter()
    array = unpack_bits(data.reshape(-1).view(np.uint8), bits, tuple(tensor.shape), dtype)
    if log is not None:
        log.record(spec.name, start_s, array.nbytes)
    return array
