"""Numpy arrays as ONNX Runtime's OrtValues and back, over the same memory wherever that is possible."""

from __future__ import annotations

import ctypes
import time
from typing import cast

import numpy as np
import onnxruntime as ort

from ...tensors.containers import pack_bits, unpack_bits
from ...tensors.conversions import ConversionLog
from ...tensors.dtypes import bits_of, dtype_of, is_numpy_dtype, onnx_dtype_number


def to_ort_value(name: str, array: np.ndarray, dtype: str, log: ConversionLog | None) -> ort.OrtValue:
    """Wrap an array as `wrap_array` does, and record a copy."""
    start_s = time.perf_counter()
    value = wrap_array(array, dtype)
    if log is not None and bits_of(dtype) < 8:
        log.record(name, start_s, value.tensor_size_in_bytes())
    return value


def to_array(name: str, value: ort.OrtValue, dtype: str, log: ConversionLog | None) -> np.ndarray:
    """Unwrap a value as `unwrap_value` does, and record a copy."""
    start_s = time.perf_counter()
    array = unwrap_value(value, dtype)
    if log is not None and not is_numpy_dtype(dtype):
        log.record(name, start_s, array.nbytes)
    return array


def wrap_array(array: np.ndarray, dtype: str) -> ort.OrtValue:
    """Return an OrtValue over the array's memory; over a copy where several elements share a byte."""
    if is_numpy_dtype(dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    number, bits = onnx_dtype_number(dtype), bits_of(dtype)
    if bits >= 8:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(f"u{bits // 8}"), number)
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), number, "cpu", 0)
    packed = pack_bits(array, bits)
    ctypes.memmove(value.data_ptr(), packed.ctypes.data, packed.nbytes)
    return value


def unwrap_value(value: ort.OrtValue, dtype: str) -> np.ndarray:
    if is_numpy_dtype(dtype):
        return cast("np.ndarray", value.numpy())
    # OrtValue.numpy() rejects dtypes that numpy lacks, and the memory is freed with the value: copy the bits.
    bits, shape = bits_of(dtype), tuple(value.shape())
    raw = np.empty(shape if bits >= 8 else value.tensor_size_in_bytes(), f"u{max(bits // 8, 1)}")
    ctypes.memmove(raw.ctypes.data, value.data_ptr(), raw.nbytes)
    return raw.view(dtype_of(dtype)) if bits >= 8 else unpack_bits(raw, bits, shape, dtype_of(dtype))
