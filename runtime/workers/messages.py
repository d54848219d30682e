"""The messages between the driver of a plan and a worker, and the references to tensors in them.

Tensors, also those inside lists, lie in shared memory: a message says where. Only values that cannot be placed there
(strings, lists, tensors of no bytes) are serialised. All messages are plain data: nothing received is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np

from ..device import Device
from ..engines.base import LoadOptions
from ..errors import ErrorRecord, InvalidInput
from ..tensors.conversions import Conversion
from ..tensors.dtypes import dtype_of


class SharedTensor(msgspec.Struct, tag="p", array_like=True, frozen=True):
    """A tensor in a chunk of shared memory."""

    dtype: str
    shape: tuple[int, ...]
    chunk: int
    offset: int


class InlineValue(msgspec.Struct, tag="w", array_like=True, frozen=True):
    """A value inside the message, as `serialise` returns it."""

    value: Any
    elements: tuple[SharedTensor | UnplacedTensor, ...] = ()
    """Its tensors that lie in shared memory."""


class UnplacedTensor(msgspec.Struct, tag="n", array_like=True, frozen=True):
    """A tensor that has no place in shared memory yet."""

    dtype: str
    shape: tuple[int, ...]


WireValue = SharedTensor | InlineValue | UnplacedTensor


class MapChunk(msgspec.Struct, tag="map", array_like=True, frozen=True):
    """Driver: map a chunk of shared memory; its descriptor travels with the message, or it has a name."""

    chunk: int
    size_bytes: int
    name: str


class UnmapChunks(msgspec.Struct, tag="unmap", array_like=True, frozen=True):
    """Driver: unmap chunks."""

    chunks: list[int]


class LoadSegment(msgspec.Struct, tag="load", array_like=True, frozen=True):
    """Driver: load a segment; answered by `Acknowledged` or `RequestFailed`."""

    segment: int
    model: str
    """Path of the ONNX file."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: Device
    options: LoadOptions


class RunSegment(msgspec.Struct, tag="run", array_like=True, frozen=True):
    """Driver: run a segment; answered by `RunFinished` or `RequestFailed`."""

    segment: int
    inputs: list[WireValue]
    outputs: list[SharedTensor]
    """Places for outputs of the expected shapes; empty where these are unknown."""


class StoreOutputs(msgspec.Struct, tag="store", array_like=True, frozen=True):
    """Driver: places for the unplaced outputs of the last run, in order; answered by `Acknowledged`."""

    outputs: list[SharedTensor]


class Acknowledged(msgspec.Struct, tag="loaded", array_like=True, frozen=True):
    """Worker: the request succeeded."""


class RunFinished(msgspec.Struct, tag="done", array_like=True, frozen=True):
    """Worker: the segment was run; outputs that are `UnplacedTensor` wait for `StoreOutputs`."""

    start_s: float
    end_s: float
    outputs: list[WireValue]
    """In the order of `LoadSegment.outputs`."""
    converted: tuple[Conversion, ...] = ()


class RequestFailed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """Worker: the request failed."""

    error: ErrorRecord


WorkerRequest = MapChunk | UnmapChunks | LoadSegment | RunSegment | StoreOutputs
WorkerReply = Acknowledged | RunFinished | RequestFailed

encode = msgspec.msgpack.Encoder(enc_hook=lambda value: dict(value)).encode
decode_request: Callable[[bytes], WorkerRequest] = msgspec.msgpack.Decoder(WorkerRequest).decode
decode_reply: Callable[[bytes], WorkerReply] = msgspec.msgpack.Decoder(WorkerReply).decode
dtype_from_name: Callable[[str], np.dtype] = cache(dtype_of)


@cache
def dtype_name(dtype: np.dtype) -> str:
    """Return a dtype's name, which numpy builds anew at each access."""
    return dtype.name


def is_shareable(array: np.ndarray) -> bool:
    """Return whether an array can be placed in shared memory: not if it holds objects, strings or nothing."""
    return array.nbytes > 0 and array.dtype.kind not in "OUS"


def serialise(value: Any, apart: list[np.ndarray] | None = None) -> Any:
    """Return a value that cannot be placed in shared memory as plain lists, numbers, strings and bytes.

    Parameters
    ----------
    value : array, list, tuple, dict, str, bytes, number or None
    apart : list of array, optional
        Receives its tensors that can be placed in shared memory, in the order in which `deserialise` takes them.

    Raises
    ------
    InvalidInput
        For a type that ONNX does not have.

    Examples
    --------
    >>> deserialise(serialise(np.array(["a", "bc"], dtype=object))).tolist()
    ['a', 'bc']
    >>> deserialise(serialise([np.zeros(0, np.int64), None]))
    [array([], dtype=int64), None]
    >>> apart = []
    >>> deserialise(serialise([np.ones(2), "x"], apart), iter(apart))
    [array([1., 1.]), 'x']
    """
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            return ["o", value.shape, [serialise(item, apart) for item in value.ravel().tolist()]]
        if apart is not None and is_shareable(value):
            apart.append(value)
            return ["p"]
        return ["a", value.dtype.name, value.shape, value.tobytes()]
    if isinstance(value, (list, tuple)):
        return ["l", [serialise(item, apart) for item in value]]
    if isinstance(value, dict):
        return ["d", [[key, serialise(item, apart)] for key, item in value.items()]]
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return value
    raise InvalidInput(
        f"a {type(value).__name__} cannot be passed to a worker", remedy="pass arrays, strings or lists of them"
    )


def deserialise(data: Any, apart: Iterator[np.ndarray] | None = None) -> Any:
    """Return the value that `serialise` was given; ``apart`` yields the tensors that it left out."""
    if not isinstance(data, (list, tuple)):
        return data
    kind, *rest = data
    if kind == "p":
        assert apart is not None  # the sender put tensors apart
        return next(apart)
    if kind == "a":
        dtype, shape, raw = rest
        return np.frombuffer(raw, dtype_from_name(dtype)).reshape(tuple(shape)).copy()
    if kind == "o":
        shape, items = rest
        array = np.empty(len(items), dtype=object)
        for index, item in enumerate(items):
            array[index] = deserialise(item, apart)
        return array.reshape(tuple(shape))
    if kind == "d":
        return {key: deserialise(item, apart) for key, item in rest[0]}
    return [deserialise(item, apart) for item in rest[0]]
