"""Names of dtypes, and the numpy, ml_dtypes and ONNX types behind them.

Engines disagree about dtypes (their own enums, bfloat16 that numpy lacks, strings), so trisect uses numpy's names
everywhere and converts in the engines. bfloat16, the 8-bit floats and the 2-, 4- and 6-bit numbers are numpy arrays of
`ml_dtypes`, one element a byte below 8 bits. Sequences, optionals and maps: `trisect.runtime.tensors.containers`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

from ..errors import InvalidInput
from .containers import container_of
from .tensor_spec import TensorSpec

_NAMES = {number: helper.tensor_dtype_to_np_dtype(number).name for number in helper.get_all_tensor_dtypes()}
"""TensorProto.DataType -> name."""
_NUMBERS = {name: number for number, name in _NAMES.items()}
_DTYPES = {name: np.dtype(helper.tensor_dtype_to_np_dtype(number)) for name, number in _NUMBERS.items()}
_DEPTH_MAX = 5
"""Of a container's dtype: at most `optional(seq(map(...)))`, and one to spare."""
_NUMPY = frozenset(name for name, dtype in _DTYPES.items() if dtype.isbuiltin == 1)
PLAIN_DTYPES = {name: dtype for name, dtype in _DTYPES.items() if name in _NUMPY and name != "object"}
"""Numpy's own dtypes of numbers, by name."""


def dtype_of(name: str) -> np.dtype:
    """Return the numpy dtype of a name; ``object`` for strings, sequences, optionals and maps.

    Raises
    ------
    InvalidInput
        For a name that is no ONNX dtype.

    Examples
    --------
    >>> dtype_of("float16").itemsize
    2
    >>> dtype_of("bfloat16").itemsize
    2
    >>> dtype_of("seq(float32)")
    dtype('O')
    """
    if container_of(name) is not None:
        return np.dtype(object)
    if name not in _DTYPES:
        raise InvalidInput(f"dtype {name!r} cannot be passed to a model", remedy=f"use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def is_dtype(name: str) -> bool:
    """Return whether a name is that of an ONNX dtype, or of a container as ONNX has it.

    Examples
    --------
    >>> is_dtype("seq(float32)"), is_dtype("map(int64,seq(float32))"), is_dtype("seq(float31)")
    (True, True, False)
    >>> is_dtype("seq(" * 1000 + "float32" + ")" * 1000)
    False
    """
    for _ in range(_DEPTH_MAX):
        container = container_of(name)
        if container is None:
            return name in _DTYPES
        kind, content = container
        if kind not in ("seq", "optional", "map") or name != f"{kind}({content})":
            return False
        if kind == "map":
            key, _, content = content.partition(",")
            if key not in _DTYPES:
                return False
        name = content
    return False


def bits_of(name: str) -> int:
    """Return the bits of one element where it is stored densely, as in engines and files; 64 for a string's pointer.

    Examples
    --------
    >>> bits_of("int4"), bits_of("bfloat16")
    (4, 16)
    """
    dtype = dtype_of(name)
    if container_of(name) is not None or name in _NUMPY:
        return 8 * dtype.itemsize
    limits: Any = ml_dtypes.iinfo if name.startswith(("int", "uint")) else ml_dtypes.finfo
    return int(limits(dtype).bits)


def is_numpy_dtype(name: str) -> bool:
    """Return whether numpy itself has a dtype, or those of a container's content; `ml_dtypes` has the others.

    Examples
    --------
    >>> is_numpy_dtype("float16"), is_numpy_dtype("seq(object)"), is_numpy_dtype("seq(bfloat16)")
    (True, True, False)
    """
    container = container_of(name)
    if container is None:
        return name in _NUMPY
    kind, content = container
    return all(is_numpy_dtype(part) for part in (content.split(",") if kind == "map" else [content]))


def is_bindable(spec: TensorSpec) -> bool:
    """Return whether engines can read and write a tensor in place: no strings, no containers, no fraction of a byte."""
    return container_of(spec.dtype) is None and spec.dtype != "object" and bits_of(spec.dtype) % 8 == 0


def onnx_dtype_name(number: int) -> str | None:
    """Return the name of an ONNX element type; None for an unknown one.

    Examples
    --------
    >>> onnx_dtype_name(1), onnx_dtype_name(22), onnx_dtype_name(99)
    ('float32', 'int4', None)
    """
    return _NAMES.get(number)


def onnx_dtype_number(name: str) -> int:
    """Return the ONNX element type of a dtype's name.

    Examples
    --------
    >>> onnx_dtype_number("bfloat16")
    16
    """
    dtype_of(name)
    return _NUMBERS[name]


def same_dtype(actual: np.dtype, expected: np.dtype) -> bool:
    """Return whether two dtypes have the same values, whatever the byte order and the kind of string."""
    if expected.kind == "O":
        return actual.kind in "OUS"
    return actual.newbyteorder("=") == expected
