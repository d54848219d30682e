"""Names of dtypes, and the one check that every feed passes before an engine sees it.

Engines disagree about dtypes (their own enums, bfloat16 that numpy does not know, strings), so trisect speaks numpy's
names everywhere and converts at the edge. A bfloat16 tensor is a numpy array of ``ml_dtypes.bfloat16``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np

from .engines.base import UNKNOWN_RANK, TensorSpec
from .errors import InvalidInput

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_ONNX_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "object",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""TensorProto.DataType -> numpy's name, for every dtype that can cross a segment's boundary."""

_ONNX_NUMBERS = {name: number for number, name in _ONNX_NAMES.items()}


def dtype_of(name: str) -> np.dtype:
    """numpy dtype of a dtype's name.

    Raises
    ------
    InvalidInput
        For dtypes that trisect does not carry between engines (4-bit and 8-bit floats, complex numbers).

    Examples
    --------
    >>> dtype_of("float16").itemsize
    2
    >>> dtype_of("bfloat16").itemsize
    2
    """
    if name not in _ONNX_NUMBERS:
        known = ", ".join(_ONNX_NUMBERS)
        raise InvalidInput(f"dtype {name!r} cannot be passed to a model", remedy=f"use one of {known}")
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def onnx_dtype_name(number: int) -> str | None:
    """numpy's name of an ONNX element type; None where trisect carries no such tensors.

    Examples
    --------
    >>> onnx_dtype_name(1), onnx_dtype_name(22)
    ('float32', None)
    """
    return _ONNX_NAMES.get(number)


def onnx_dtype_number(name: str) -> int:
    """ONNX element type of a dtype's name.

    Examples
    --------
    >>> onnx_dtype_number("bfloat16")
    16
    """
    dtype_of(name)
    return _ONNX_NUMBERS[name]


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array itself when its memory is C-ordered, else a copy that is.

    ``np.ascontiguousarray`` is not used because it turns a scalar into a vector.
    """
    return np.asarray(array, order="C")


def check_feeds(specs: Iterable[TensorSpec], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feeds in the model's order, contiguous, after a check of names, dtypes and shapes.

    Parameters
    ----------
    specs : iterable of TensorSpec
        What the model takes.
    feeds : mapping of str to array
        What the caller gave.

    Raises
    ------
    InvalidInput
        Naming the input, what it should be and what came.

    Examples
    --------
    >>> spec = TensorSpec("x", "float32", ("batch", 4))
    >>> check_feeds([spec], {"x": np.zeros((2, 4), np.float32)})["x"].shape
    (2, 4)
    >>> check_feeds([spec], {"x": np.zeros((2, 5), np.float32)})  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ...
    trisect.runtime.errors.InvalidInput: tensor 'x' has shape (2, 5), the model has (batch, 4)
    """
    wanted = {spec.name: spec for spec in specs}
    unknown = [name for name in feeds if name not in wanted]
    if unknown:
        raise InvalidInput(f"the model has no input {unknown[0]!r}", remedy=f"its inputs are {', '.join(wanted)}")
    checked = {}
    for name, spec in wanted.items():
        if name not in feeds:
            wants = f"{spec.dtype} array of shape {_shape(spec.shape)}"
            raise InvalidInput(f"input {name!r} is missing", remedy=f"give a {wants}")
        checked[name] = contiguous(_checked(spec, feeds[name]))
    return checked


def check_buffers(
    inputs: Mapping[str, np.ndarray],
    specs: Iterable[TensorSpec],
    outputs: Mapping[str, np.ndarray],
    output_specs: Iterable[TensorSpec],
) -> None:
    """Refuse buffers that an engine could not read and write in place.

    Parameters
    ----------
    inputs, outputs : mapping of str to array
        One for every input; outputs may be left out.
    specs, output_specs : iterable of TensorSpec
        What the model takes and gives.

    Raises
    ------
    InvalidInput
        Naming the buffer and what is wrong with it.
    """
    checked = check_feeds(specs, inputs)
    named = {spec.name: spec for spec in output_specs}
    for name, array in outputs.items():
        if name not in named:
            raise InvalidInput(f"the model has no output {name!r}", remedy=f"its outputs are {', '.join(named)}")
        if _checked(named[name], array) is not array or not array.flags.c_contiguous or not array.flags.writeable:
            raise InvalidInput(f"buffer {name!r} cannot be written in place", remedy="bind a writable C-ordered array")
    moved = next((name for name, array in checked.items() if array is not inputs[name]), None)
    if moved is not None:
        raise InvalidInput(f"buffer {moved!r} is not C-ordered", remedy="bind a C-ordered array")
    strings = next((name for name, array in (*checked.items(), *outputs.items()) if array.dtype.kind in "OUS"), None)
    if strings is not None:
        raise InvalidInput(f"{strings!r} holds strings, which have no fixed buffer", remedy="use run instead")


def _checked(spec: TensorSpec, value: object) -> np.ndarray:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise InvalidInput(f"tensor {spec.name!r} is a {type(value).__name__}", remedy="give a numpy array")
    array = np.asarray(value)
    expected = dtype_of(spec.dtype)
    if not same_dtype(array.dtype, expected):
        raise InvalidInput(
            f"tensor {spec.name!r} is {array.dtype.name}, the model has {spec.dtype}",
            remedy=f"convert it with .astype({spec.dtype!r})",
        )
    if not _fits(array.shape, spec.shape):
        raise InvalidInput(f"tensor {spec.name!r} has shape {_shape(array.shape)}, the model has {_shape(spec.shape)}")
    return array if array.dtype.isnative else array.astype(expected)


def same_dtype(got: np.dtype, expected: np.dtype) -> bool:
    """Whether values of one dtype are values of the other, whatever the byte order and the kind of string."""
    if expected.kind == "O":
        return got.kind in "OUS"
    return got.newbyteorder("=") == expected


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    if wanted == UNKNOWN_RANK:
        return True
    return len(shape) == len(wanted) and all(
        want == got for want, got in zip(wanted, shape, strict=True) if isinstance(want, int)
    )


def _shape(shape: Iterable[int | str]) -> str:
    dims = [str(dim) for dim in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"
