"""Checks feeds and buffers once, before an engine reads them: names, dtypes, shapes, memory order."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ..errors import InvalidInput
from .containers import container_of, contiguous, from_dlpack, map_tensors, pack, unpack
from .conversions import ConversionLog
from .dtypes import PLAIN_DTYPES, dtype_of, is_bindable, is_numpy_dtype, same_dtype
from .tensor_spec import UNKNOWN_RANK, TensorSpec

_DEPTH_MAX = 4


def check_feeds(
    specs: Iterable[TensorSpec],
    feeds: Mapping[str, np.ndarray],
    log: ConversionLog | None = None,
    fixed: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Check names, dtypes and shapes of feeds; return them in the model's order, C-ordered.

    Parameters
    ----------
    specs : iterable of TensorSpec
        The model's inputs.
    feeds : mapping of str to array
        Arrays, tensors of any library that offers ``__dlpack__``, lists for sequences.
    log : ConversionLog, optional
        Records the feeds that are copied.
    fixed : collection of str, optional
        Inputs with a default that cannot be replaced.

    Raises
    ------
    InvalidInput
        With the input, what was expected and what was found.

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
    unchanged = _valid_as_given(specs, feeds)
    if unchanged is not None:
        return unchanged
    by_name = {spec.name: spec for spec in specs}
    unknown = [name for name in feeds if name not in by_name]
    if unknown and unknown[0] in fixed:
        raise InvalidInput(
            f"input {unknown[0]!r} has a default (an initialiser of the model), which is a constant of the plan",
            remedy="leave it out, or remove its initialiser from the model and split that",
        )
    if unknown:
        raise InvalidInput(f"the model has no input {unknown[0]!r}", remedy=f"its inputs are {', '.join(by_name)}")
    checked = {}
    for name, spec in by_name.items():
        if name not in feeds:
            expected = f"{spec.dtype} array of shape {_shape_text(spec.shape)}"
            raise InvalidInput(f"input {name!r} is missing", remedy=f"give a {expected}")
        array = _check(spec, feeds[name], log)
        if not array.flags.c_contiguous:
            start_s = time.perf_counter()
            array = contiguous(array)
            if log is not None:
                log.record(name, start_s, array.nbytes)
        checked[name] = array
    return checked


def _valid_as_given(specs: tuple[TensorSpec, ...], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the feeds in the model's order where all are valid unchanged: the usual case, with little overhead."""
    if len(specs) != len(feeds):
        return None
    ordered = {}
    for spec in specs:
        array, expected = feeds.get(spec.name), PLAIN_DTYPES.get(spec.dtype)
        if expected is None or type(array) is not np.ndarray or array.dtype != expected:  # float64 equals None
            return None
        if not array.flags.c_contiguous:
            return None
        if array.shape != spec.shape and not _fits(array.shape, spec.shape):
            return None
        ordered[spec.name] = array
    return ordered


def check_buffers(
    inputs: Mapping[str, np.ndarray],
    specs: Iterable[TensorSpec],
    outputs: Mapping[str, np.ndarray],
    output_specs: Iterable[TensorSpec],
) -> None:
    """Check that an engine can read and write buffers in place.

    Parameters
    ----------
    inputs, outputs : mapping of str to array
        One for every input, and for any of the outputs.
    specs, output_specs : iterable of TensorSpec
        The model's inputs and outputs.

    Raises
    ------
    InvalidInput
        With the buffer and what is wrong with it.
    """
    specs = tuple(specs)
    checked = check_feeds(specs, inputs)
    by_name = {spec.name: spec for spec in output_specs}
    for name, array in outputs.items():
        if name not in by_name:
            raise InvalidInput(f"the model has no output {name!r}", remedy=f"its outputs are {', '.join(by_name)}")
        if _check(by_name[name], array) is not array or not array.flags.c_contiguous or not array.flags.writeable:
            raise InvalidInput(f"buffer {name!r} cannot be written in place", remedy="bind a writable C-ordered array")
    copied = next((name for name, array in checked.items() if array is not inputs[name]), None)
    if copied is not None:
        raise InvalidInput(f"buffer {copied!r} is not C-ordered", remedy="bind a C-ordered array")
    for spec in (*specs, *(by_name[name] for name in outputs)):
        if not is_bindable(spec):
            raise InvalidInput(f"{spec.name!r} is {spec.dtype}, which has no fixed buffer", remedy="use run instead")


def _check(spec: TensorSpec, value: object, log: ConversionLog | None = None) -> np.ndarray:
    if container_of(spec.dtype) is not None:
        return _check_container(spec, value, log)
    if not isinstance(value, (np.ndarray, np.generic)):
        if not hasattr(value, "__dlpack__"):
            raise InvalidInput(f"tensor {spec.name!r} is a {type(value).__name__}", remedy="give a numpy array")
        value = from_dlpack(spec.name, value, log)
    array = np.asarray(value)
    expected = dtype_of(spec.dtype)
    if _lost_its_dtype(array.dtype, expected):
        array = array.view(expected)
    if not same_dtype(array.dtype, expected):
        raise InvalidInput(
            f"tensor {spec.name!r} is {array.dtype.name}, the model has {spec.dtype}",
            remedy=f"convert it with .astype({spec.dtype!r})",
        )
    if not _fits(array.shape, spec.shape):
        shapes = f"has shape {_shape_text(array.shape)}, the model has {_shape_text(spec.shape)}"
        raise InvalidInput(f"tensor {spec.name!r} {shapes}")
    if array.dtype.isnative:
        return array
    start_s = time.perf_counter()
    array = array.astype(expected)
    if log is not None:
        log.record(spec.name, start_s, array.nbytes)
    return array


def _lost_its_dtype(actual: np.dtype, expected: np.dtype) -> bool:
    """Return whether an array is the bytes of a dtype that numpy lacks, as numpy's files give it back."""
    return (
        actual.type is np.void
        and actual.names is None
        and not is_numpy_dtype(expected.name)
        and actual.itemsize == expected.itemsize
    )


def _check_container(spec: TensorSpec, value: object, log: ConversionLog | None) -> np.ndarray:
    is_list = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")
    mismatch = f"is a {type(value).__name__}, not a list"
    if is_list or not spec.dtype.startswith("seq("):
        packed = pack(spec.dtype, value)
        mismatch = type_mismatch(spec.dtype, unpack(spec.dtype, packed)) or ""
        if not mismatch:
            return _normalised(spec.name, packed, log)
    raise InvalidInput(f"{spec.name!r} {mismatch}; the model has {spec.dtype}", remedy="a sequence is a list of arrays")


def _normalised(name: str, packed: np.ndarray, log: ConversionLog | None) -> np.ndarray:
    """Return a container with its tensors C-ordered and in this machine's byte order."""
    changed = False

    def normalise(tensor: np.ndarray) -> np.ndarray:
        nonlocal changed
        if tensor.flags.c_contiguous and tensor.dtype.isnative:
            return tensor
        changed = True
        start_s = time.perf_counter()
        normalised = contiguous(tensor.astype(tensor.dtype.newbyteorder("="), copy=False))
        if log is not None:
            log.record(name, start_s, normalised.nbytes)
        return normalised

    normalised = map_tensors(packed, normalise)
    return normalised if changed else packed


def type_mismatch(dtype: str, value: object, depth: int = 0) -> str | None:
    """Return why a value (a list for a sequence, None for an empty optional) is not of a dtype; None where it is.

    Examples
    --------
    >>> type_mismatch("seq(float32)", [np.zeros(2, np.float32), np.zeros(2)])
    'element 1 is float64, not float32'
    >>> type_mismatch("optional(float32)", None) is None
    True
    """
    container = container_of(dtype)
    if container is None:
        if not isinstance(value, (np.ndarray, np.generic)):
            return f"is a {type(value).__name__}, not an array"
        return None if same_dtype(value.dtype, dtype_of(dtype)) else f"is {value.dtype.name}, not {dtype}"
    kind, content = container
    if depth > _DEPTH_MAX:
        return "is nested too deeply"
    if kind == "optional":
        return None if value is None else type_mismatch(content, value, depth + 1)
    if kind == "map":
        return None if isinstance(value, Mapping) else f"is a {type(value).__name__}, not a dict"
    if not isinstance(value, (list, tuple)):
        return f"is a {type(value).__name__}, not a list"
    mismatches = (type_mismatch(content, element, depth + 1) for element in value)
    return next((f"element {index} {why}" for index, why in enumerate(mismatches) if why is not None), None)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    if expected == UNKNOWN_RANK:
        return True
    return len(shape) == len(expected) and all(
        size == dim for dim, size in zip(expected, shape, strict=True) if isinstance(dim, int)
    )


def _shape_text(shape: Iterable[int | str]) -> str:
    dims = [str(dim) for dim in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"
