"""Sequences, optionals and maps as numpy arrays, tensors of other libraries, and elements of less than a byte.

Everything that carries tensors (queues, rings, traces) handles numpy arrays only. So a sequence is an object array with
one element per tensor, an optional or a map one of rank 0: see `pack` and `unpack`. Their dtypes are named after the
ONNX types: ``seq(float32)``, ``optional(seq(float32))``, ``map(int64,float32)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .conversions import ConversionLog

_HOST_READABLE = (1, 3, 13)
"""DLPack's device types whose memory the CPU can read: CPU, CUDA pinned, CUDA managed."""


def container_of(dtype: str) -> tuple[str, str] | None:
    """Return kind (``seq``, ``optional``, ``map``) and content of a container's dtype; None for a tensor's.

    Examples
    --------
    >>> container_of("optional(seq(float32))")
    ('optional', 'seq(float32)')
    >>> container_of("float32") is None
    True
    """
    kind, opened, content = dtype.partition("(")
    return (kind, content.removesuffix(")")) if opened else None


def pack(dtype: str, value: Any) -> np.ndarray:
    """Return a sequence, optional or map as an object array.

    Parameters
    ----------
    dtype : str
        ``seq(...)``, ``optional(...)`` or ``map(...)``.
    value : list, tuple, array, None or dict
        A packed value is returned unchanged.

    Examples
    --------
    >>> pack("seq(float32)", [np.zeros(2), np.zeros(3)]).shape
    (2,)
    >>> pack("optional(float32)", None)
    array(None, dtype=object)
    """
    already_packed = value if isinstance(value, np.ndarray) and value.dtype.kind == "O" else None
    if dtype.startswith("seq("):
        if already_packed is not None and already_packed.ndim == 1:
            return already_packed
        elements = (np.asarray(one) if isinstance(one, np.generic) else one for one in value)
        return np.fromiter(elements, dtype=object, count=len(value))
    # An object array of rank 0 with a string in it is a string tensor, not yet packed.
    if already_packed is not None and already_packed.ndim == 0 and not isinstance(value.item(), (str, bytes)):
        return already_packed
    packed = np.empty(1, dtype=object)
    packed[0] = value
    return packed.reshape(())


def unpack(dtype: str, array: np.ndarray) -> Any:
    """Return the list, dict, tensor or None that `pack` packed; a tensor unchanged.

    Examples
    --------
    >>> unpack("seq(int64)", pack("seq(int64)", [np.zeros(2, np.int64), np.ones(1, np.int64)]))
    [array([0, 0]), array([1])]
    """
    container = container_of(dtype)
    if container is None:
        return array
    return list(array) if container[0] == "seq" else array.item()


def map_tensors(packed: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function to every tensor in a packed list, optional or map.

    Examples
    --------
    >>> unpack("seq(int64)", map_tensors(pack("seq(int64)", [np.arange(2), np.arange(3)]), lambda tensor: tensor + 1))
    [array([1, 2]), array([1, 2, 3])]
    """
    mapped = np.empty(packed.size, dtype=object)
    for index, value in enumerate(packed.reshape(-1).tolist()):
        mapped[index] = _map(value, function)
    return mapped.reshape(packed.shape)


def _map(value: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        return function(value)
    return [_map(element, function) for element in value] if isinstance(value, (list, tuple)) else value


def deep_copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that shares no memory, of a tensor or of a container and all tensors in it.

    Examples
    --------
    >>> first = np.zeros(1)
    >>> deep_copy(pack("seq(float64)", [first]))[0] is first
    False
    """
    return map_tensors(array, np.array) if array.dtype.kind == "O" else np.array(array)


def total_bytes(array: np.ndarray) -> int:
    """Return the bytes of a tensor, or of all tensors in a container; a string counts as a pointer.

    Examples
    --------
    >>> total_bytes(pack("seq(float32)", [np.zeros(2, np.float32), np.zeros(3, np.float32)]))
    20
    """
    if array.dtype.kind != "O":
        return array.nbytes
    sizes: list[int] = []

    def count(tensor: np.ndarray) -> np.ndarray:
        sizes.append(tensor.nbytes)
        return tensor

    map_tensors(array, count)
    return sum(sizes) or array.nbytes


def contiguous(array: np.ndarray) -> np.ndarray:
    """Return the array itself where its memory is C-ordered, else a copy that is.

    ``np.ascontiguousarray`` is not used because it turns a scalar into a vector.
    """
    return np.asarray(array, order="C")


def from_dlpack(name: str, value: Any, log: ConversionLog | None = None) -> np.ndarray:
    """Return a numpy array over the memory of another library's tensor, copied only where the CPU cannot read it.

    Raises
    ------
    InvalidInput
        For a tensor of a dtype that numpy lacks, or on a device from which it cannot be copied.
    """
    try:
        device = value.__dlpack_device__()[0]
        if device in _HOST_READABLE:
            return np.from_dlpack(value)
        start_s = time.perf_counter()
        array = np.from_dlpack(value, device="cpu", copy=True)
        if log is not None:
            log.record(name, start_s, array.nbytes)
        return array
    except Exception as error:  # each library has exceptions of its own
        kind = type(value).__name__
        raise InvalidInput(
            f"tensor {name!r} is a {kind} that numpy cannot read ({str(error).strip() or type(error).__name__})",
            remedy="move it to the CPU, or give a numpy array",
        ) from error


def pack_bits(array: np.ndarray, bits: int) -> np.ndarray:
    """Pack elements of 2 or 4 bits from one a byte, as in numpy, to several a byte, lowest bits first, as in engines.

    Examples
    --------
    >>> pack_bits(np.array([1, 2, 3], np.uint8), 4)
    array([33,  3], dtype=uint8)
    """
    per_byte = 8 // bits
    raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1) & np.uint8((1 << bits) - 1)
    columns = np.concatenate([raw, np.zeros(-len(raw) % per_byte, np.uint8)]).reshape(-1, per_byte)
    packed = np.zeros(len(columns), np.uint8)
    for index in range(per_byte):
        packed |= columns[:, index] << np.uint8(bits * index)
    return packed


def unpack_bits(packed: np.ndarray, bits: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Unpack what `pack_bits` packed into an array of `dtype`.

    Examples
    --------
    >>> unpack_bits(np.array([33, 3], np.uint8), 4, (3,), np.dtype(np.uint8))
    array([1, 2, 3], dtype=uint8)
    """
    count = int(np.prod(shape, dtype=np.int64))
    columns = np.stack([packed >> np.uint8(bits * index) for index in range(8 // bits)], axis=-1)
    raw = columns.reshape(-1)[:count] & np.uint8((1 << bits) - 1)
    return np.asarray(raw.view(dtype).reshape(shape))
