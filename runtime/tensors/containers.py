"""What flows between segments and is no plain tensor: sequences, optionals, maps, and tensors of other libraries.

Everything that carries tensors (queues, rings, traces) knows numpy arrays only. So a sequence travels as an array of
objects with one element per tensor, an optional or a map as one of rank 0; `pack` makes them and `unpack` takes them
apart again. The dtype's name tells which it is: ``seq(float32)``, ``optional(seq(float32))``, ``map(int64,float32)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .conversions import ConversionLog

_READABLE = (1, 3, 13)
"""DLPack's device types whose memory the CPU reads: CPU, CUDA's pinned and managed."""


def container_of(dtype: str) -> tuple[str, str] | None:
    """Kind (``seq``, ``optional``, ``map``) and content of a dtype that is no tensor's; None for a tensor's.

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
    """A sequence, optional or map as an array of objects.

    Parameters
    ----------
    dtype : str
        ``seq(...)``, ``optional(...)`` or ``map(...)``.
    value : list, tuple, array, None or dict
        What is packed already stays as it is.

    Examples
    --------
    >>> pack("seq(float32)", [np.zeros(2), np.zeros(3)]).shape
    (2,)
    >>> pack("optional(float32)", None)
    array(None, dtype=object)
    """
    packed_before = value if isinstance(value, np.ndarray) and value.dtype.kind == "O" else None
    if dtype.startswith("seq("):
        if packed_before is not None and packed_before.ndim == 1:
            return packed_before
        elements = (np.asarray(one) if isinstance(one, np.generic) else one for one in value)
        return np.fromiter(elements, dtype=object, count=len(value))
    # A text in it is a tensor of one string, which nobody has packed yet.
    if packed_before is not None and packed_before.ndim == 0 and not isinstance(value.item(), (str, bytes)):
        return packed_before
    packed = np.empty(1, dtype=object)
    packed[0] = value
    return packed.reshape(())


def unpack(dtype: str, array: np.ndarray) -> Any:
    """The list, dict, tensor or None that `pack` packed; a tensor as it is.

    Examples
    --------
    >>> unpack("seq(int64)", pack("seq(int64)", [np.zeros(2, np.int64), np.ones(1, np.int64)]))
    [array([0, 0]), array([1])]
    """
    found = container_of(dtype)
    if found is None:
        return array
    return list(array) if found[0] == "seq" else array.item()


def with_tensors(packed: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A list, optional or map with every tensor in it changed.

    Examples
    --------
    >>> unpack("seq(int64)", with_tensors(pack("seq(int64)", [np.arange(2), np.arange(3)]), lambda one: one + 1))
    [array([1, 2]), array([1, 2, 3])]
    """
    made = np.empty(packed.size, dtype=object)
    for index, one in enumerate(packed.reshape(-1).tolist()):
        made[index] = _changed(one, change)
    return made.reshape(packed.shape)


def _changed(value: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        return change(value)
    return [_changed(one, change) for one in value] if isinstance(value, (list, tuple)) else value


def owned(array: np.ndarray) -> np.ndarray:
    """A copy that shares no memory, of a tensor or of a list and all tensors in it.

    Examples
    --------
    >>> first = np.zeros(1)
    >>> owned(pack("seq(float64)", [first]))[0] is first
    False
    """
    return with_tensors(array, np.array) if array.dtype.kind == "O" else np.array(array)


def carried_bytes(array: np.ndarray) -> int:
    """Bytes of a tensor, or of all tensors in a list, optional or map; strings count as pointers.

    Examples
    --------
    >>> carried_bytes(pack("seq(float32)", [np.zeros(2, np.float32), np.zeros(3, np.float32)]))
    20
    """
    if array.dtype.kind != "O":
        return array.nbytes
    sizes: list[int] = []

    def count(tensor: np.ndarray) -> np.ndarray:
        sizes.append(tensor.nbytes)
        return tensor

    with_tensors(array, count)
    return sum(sizes) or array.nbytes


def from_dlpack(name: str, value: Any, log: ConversionLog | None = None) -> np.ndarray:
    """A numpy array over the memory of another library's tensor, copied only where the CPU cannot read it.

    Raises
    ------
    InvalidInput
        For a tensor that numpy cannot see: of a dtype it lacks, or on a device that does not give copies out.
    """
    try:
        device = value.__dlpack_device__()[0]
        if device in _READABLE:
            return np.from_dlpack(value)
        start_s = time.perf_counter()
        array = np.from_dlpack(value, device="cpu", copy=True)
        if log is not None:
            log.record(name, start_s, array.nbytes)
        return array
    except Exception as error:  # each library has its own
        kind = type(value).__name__
        raise InvalidInput(
            f"tensor {name!r} is a {kind} that numpy cannot read ({str(error).strip() or type(error).__name__})",
            remedy="move it to the CPU, or give a numpy array",
        ) from error


def pack_bits(array: np.ndarray, bits: int) -> np.ndarray:
    """Elements of 2 or 4 bits, a byte each as numpy has them, as engines store them: several a byte, lowest first.

    Examples
    --------
    >>> pack_bits(np.array([1, 2, 3], np.uint8), 4)
    array([33,  3], dtype=uint8)
    """
    per_byte = 8 // bits
    raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1) & np.uint8((1 << bits) - 1)
    lanes = np.concatenate([raw, np.zeros(-len(raw) % per_byte, np.uint8)]).reshape(-1, per_byte)
    packed = np.zeros(len(lanes), np.uint8)
    for lane in range(per_byte):
        packed |= lanes[:, lane] << np.uint8(bits * lane)
    return packed


def unpack_bits(packed: np.ndarray, bits: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What `pack_bits` packed, as an array of `dtype`.

    Examples
    --------
    >>> unpack_bits(np.array([33, 3], np.uint8), 4, (3,), np.dtype(np.uint8))
    array([1, 2, 3], dtype=uint8)
    """
    count = int(np.prod(shape, dtype=np.int64))
    lanes = np.stack([packed >> np.uint8(bits * lane) for lane in range(8 // bits)], axis=-1)
    raw = lanes.reshape(-1)[:count] & np.uint8((1 << bits) - 1)
    return np.asarray(raw.view(dtype).reshape(shape))
