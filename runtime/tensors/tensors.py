"""Names of dtypes, and the one check that every feed passes before an engine sees it.

Engines disagree about dtypes (their own enums, bfloat16 that numpy does not know, strings), so trisect speaks numpy's
names everywhere and converts at the edge. A bfloat16 tensor is a numpy array of ``ml_dtypes.bfloat16``, and so are the
8-bit floats and the 2- and 4-bit numbers (an element a byte there). Sequences and optionals:
`trisect.runtime.tensors.containers`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np

from ..errors import InvalidInput
from .containers import container_of, from_dlpack, pack, unpack, with_tensors
from .conversions import ConversionLog
from .tensor_spec import UNKNOWN_RANK, TensorSpec

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
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
"""TensorProto.DataType -> numpy's name, or that of `ml_dtypes` where numpy has none."""

_ONNX_NUMBERS = {name: number for number, name in _ONNX_NAMES.items()}
_NUMPYS_LAST = 15
_BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2, "float6_e2m3fn": 6, "float6_e3m2fn": 6}
_MOST_NESTED = 4


_PLAIN = {name: np.dtype(name) for number, name in _ONNX_NAMES.items() if number <= _NUMPYS_LAST and name != "object"}
"""Dtypes of numbers that numpy has, by name."""


def dtype_of(name: str) -> np.dtype:
    """numpy dtype of a dtype's name; ``object`` for strings, sequences, optionals and maps.

    Raises
    ------
    InvalidInput
        For a name that ONNX has no dtype for.

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
    number = _ONNX_NUMBERS.get(name)
    if number is None:
        known = ", ".join(_ONNX_NUMBERS)
        raise InvalidInput(f"dtype {name!r} cannot be passed to a model", remedy=f"use one of {known}")
    return np.dtype(name) if number <= _NUMPYS_LAST else np.dtype(getattr(ml_dtypes, name))


def bits_of(name: str) -> int:
    """Bits that one element takes where it is stored densely, as engines and files do; 64 for a string's pointer.

    Examples
    --------
    >>> bits_of("int4"), bits_of("bfloat16")
    (4, 16)
    """
    return _BITS.get(name) or 8 * dtype_of(name).itemsize


def is_numpys(name: str) -> bool:
    """Whether numpy itself has a dtype, or has that of a list's elements; if not, `ml_dtypes` has.

    Examples
    --------
    >>> is_numpys("float16"), is_numpys("seq(object)"), is_numpys("seq(bfloat16)")
    (True, True, False)
    """
    found = container_of(name)
    if found is not None:
        return all(is_numpys(part) for part in found[1].split(",")) if found[0] == "map" else is_numpys(found[1])
    return _ONNX_NUMBERS[name] <= _NUMPYS_LAST


def is_bindable(spec: TensorSpec) -> bool:
    """Whether an engine can read and write the tensor in a caller's array: not strings, lists, nor parts of a byte."""
    return container_of(spec.dtype) is None and spec.dtype != "object" and spec.dtype not in _BITS


def onnx_dtype_name(number: int) -> str | None:
    """numpy's name of an ONNX element type; None for one that does not exist.

    Examples
    --------
    >>> onnx_dtype_name(1), onnx_dtype_name(22), onnx_dtype_name(99)
    ('float32', 'int4', None)
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


def check_feeds(
    specs: Iterable[TensorSpec], feeds: Mapping[str, np.ndarray], log: ConversionLog | None = None
) -> dict[str, np.ndarray]:
    """Feeds in the model's order, contiguous, after a check of names, dtypes and shapes.

    Parameters
    ----------
    specs : iterable of TensorSpec
        What the model takes.
    feeds : mapping of str to array
        What the caller gave: arrays, tensors of any library that offers ``__dlpack__``, lists for sequences.
    log : ConversionLog, optional
        Records the feeds that are copied.

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
    specs = tuple(specs)
    checked = _as_they_are(specs, feeds)
    if checked is not None:
        return checked
    wanted = {spec.name: spec for spec in specs}
    unknown = [name for name in feeds if name not in wanted]
    if unknown:
        raise InvalidInput(f"the model has no input {unknown[0]!r}", remedy=f"its inputs are {', '.join(wanted)}")
    checked = {}
    for name, spec in wanted.items():
        if name not in feeds:
            wants = f"{spec.dtype} array of shape {_shape(spec.shape)}"
            raise InvalidInput(f"input {name!r} is missing", remedy=f"give a {wants}")
        array = _checked(spec, feeds[name], log)
        if not array.flags.c_contiguous:
            start_s = time.perf_counter()
            array = contiguous(array)
            if log is not None:
                log.record(name, start_s, array.nbytes)
        checked[name] = array
    return checked


def _as_they_are(specs: tuple[TensorSpec, ...], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Feeds of which nothing has to be said or done, in the model's order: the usual case, quickly."""
    if len(specs) != len(feeds):
        return None
    found = {}
    for spec in specs:
        array = feeds.get(spec.name)
        if type(array) is not np.ndarray or array.dtype != _PLAIN.get(spec.dtype) or not array.flags.c_contiguous:
            return None
        if array.shape != spec.shape and not _fits(array.shape, spec.shape):
            return None
        found[spec.name] = array
    return found


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
    specs = tuple(specs)
    checked = check_feeds(specs, inputs)
    named = {spec.name: spec for spec in output_specs}
    for name, array in outputs.items():
        if name not in named:
            raise InvalidInput(f"the model has no output {name!r}", remedy=f"its outputs are {', '.join(named)}")
        if _checked(named[name], array, None) is not array or not array.flags.c_contiguous or not array.flags.writeable:
            raise InvalidInput(f"buffer {name!r} cannot be written in place", remedy="bind a writable C-ordered array")
    moved = next((name for name, array in checked.items() if array is not inputs[name]), None)
    if moved is not None:
        raise InvalidInput(f"buffer {moved!r} is not C-ordered", remedy="bind a C-ordered array")
    for spec in (*specs, *(named[name] for name in outputs)):
        if not is_bindable(spec):
            raise InvalidInput(f"{spec.name!r} is {spec.dtype}, which has no fixed buffer", remedy="use run instead")


def _checked(spec: TensorSpec, value: object, log: ConversionLog | None) -> np.ndarray:
    if container_of(spec.dtype) is not None:
        return _checked_container(spec, value, log)
    if not isinstance(value, (np.ndarray, np.generic)):
        if not hasattr(value, "__dlpack__"):
            raise InvalidInput(f"tensor {spec.name!r} is a {type(value).__name__}", remedy="give a numpy array")
        value = from_dlpack(spec.name, value, log)
    array = np.asarray(value)
    expected = dtype_of(spec.dtype)
    if not same_dtype(array.dtype, expected):
        raise InvalidInput(
            f"tensor {spec.name!r} is {array.dtype.name}, the model has {spec.dtype}",
            remedy=f"convert it with .astype({spec.dtype!r})",
        )
    if not _fits(array.shape, spec.shape):
        raise InvalidInput(f"tensor {spec.name!r} has shape {_shape(array.shape)}, the model has {_shape(spec.shape)}")
    if array.dtype.isnative:
        return array
    start_s = time.perf_counter()
    array = array.astype(expected)
    if log is not None:
        log.record(spec.name, start_s, array.nbytes)
    return array


def _checked_container(spec: TensorSpec, value: object, log: ConversionLog | None) -> np.ndarray:
    is_list = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")
    why = f"is a {type(value).__name__}, not a list"
    if is_list or not spec.dtype.startswith("seq("):
        packed = pack(spec.dtype, value)
        why = misfit(spec.dtype, unpack(spec.dtype, packed)) or ""
        if not why:
            return _settled(spec.name, packed, log)
    raise InvalidInput(f"{spec.name!r} {why}; the model has {spec.dtype}", remedy="a sequence is a list of arrays")


def _settled(name: str, packed: np.ndarray, log: ConversionLog | None) -> np.ndarray:
    """A list with its tensors C-ordered and in this machine's byte order, as those that come alone are."""
    changed = False

    def settle(one: np.ndarray) -> np.ndarray:
        nonlocal changed
        if one.flags.c_contiguous and one.dtype.isnative:
            return one
        changed = True
        start_s = time.perf_counter()
        settled = contiguous(one.astype(one.dtype.newbyteorder("="), copy=False))
        if log is not None:
            log.record(name, start_s, settled.nbytes)
        return settled

    settled = with_tensors(packed, settle)
    return settled if changed else packed


def misfit(dtype: str, value: object, depth: int = 0) -> str | None:
    """Why a value (a list for a sequence, None for an empty optional) is not of a dtype; None where it is.

    Examples
    --------
    >>> misfit("seq(float32)", [np.zeros(2, np.float32), np.zeros(2)])
    'element 1 is float64, not float32'
    >>> misfit("optional(float32)", None) is None
    True
    """
    found = container_of(dtype)
    if found is None:
        if not isinstance(value, (np.ndarray, np.generic)):
            return f"is a {type(value).__name__}, not an array"
        return None if same_dtype(value.dtype, dtype_of(dtype)) else f"is {value.dtype.name}, not {dtype}"
    kind, content = found
    if depth > _MOST_NESTED:
        return "is nested too deeply"
    if kind == "optional":
        return None if value is None else misfit(content, value, depth + 1)
    if kind == "map":
        return None if isinstance(value, Mapping) else f"is a {type(value).__name__}, not a dict"
    if not isinstance(value, (list, tuple)):
        return f"is a {type(value).__name__}, not a list"
    reasons = (misfit(content, element, depth + 1) for element in value)
    return next((f"element {index} {why}" for index, why in enumerate(reasons) if why is not None), None)


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
