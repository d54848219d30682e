"""What the driver of a plan and a worker say to each other, and how tensors are named in it.

Tensors themselves lie in shared memory, those in lists too: a message says where. Only what has no place there
(strings, lists, tensors of no bytes) is written out. Plain data throughout: nothing that is read is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np

from ..device import Device
from ..engines.base import LoadOptions
from ..errors import InvalidInput
from ..tensors.conversions import Conversion


class Placed(msgspec.Struct, tag="p", array_like=True, frozen=True):
    """A tensor in a chunk of shared memory."""

    dtype: str
    shape: tuple[int, ...]
    chunk: int
    offset: int


class Written(msgspec.Struct, tag="w", array_like=True, frozen=True):
    """A value written out, as `write` has it."""

    value: Any
    elements: tuple[Placed | Wanted, ...] = ()
    """The tensors in it that are not."""


class Wanted(msgspec.Struct, tag="n", array_like=True, frozen=True):
    """A tensor that has no place yet."""

    dtype: str
    shape: tuple[int, ...]


Value = Placed | Written | Wanted


class Map(msgspec.Struct, tag="map", array_like=True, frozen=True):
    """Driver: map this chunk; its descriptor comes along, or it has a name."""

    chunk: int
    size_bytes: int
    name: str


class Unmap(msgspec.Struct, tag="unmap", array_like=True, frozen=True):
    """Driver: let these chunks go."""

    chunks: list[int]


class Load(msgspec.Struct, tag="load", array_like=True, frozen=True):
    """Driver: load a segment; answered by `Loaded` or `Failed`."""

    segment: int
    model: str
    """Path of the ONNX file."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: Device
    options: LoadOptions


class Loaded(msgspec.Struct, tag="loaded", array_like=True, frozen=True):
    """Worker: the segment can be run."""


class Run(msgspec.Struct, tag="run", array_like=True, frozen=True):
    """Driver: run a segment; answered by `Ran` or `Failed`."""

    segment: int
    inputs: list[Value]
    outputs: list[Placed]
    """Places for the outputs in the shapes that they are expected in; none where that is not known."""


class Done(msgspec.Struct, tag="done", array_like=True, frozen=True):
    """Worker: it was run; outputs that are `Wanted` wait for `Store`."""

    start_s: float
    end_s: float
    outputs: list[Value]
    """In the order of `Load`; `Placed` in the places given."""
    converted: tuple[Conversion, ...] = ()


class Store(msgspec.Struct, tag="store", array_like=True, frozen=True):
    """Driver: places for the outputs that were wanted, in their order; answered by `Loaded`."""

    outputs: list[Placed]


class Failed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """Worker: what went wrong, as one of trisect's errors."""

    kind: str
    message: str
    remedy: str | None


Question = Map | Unmap | Load | Run | Store
Answer = Loaded | Done | Failed

encode = msgspec.msgpack.Encoder(enc_hook=lambda value: dict(value)).encode
decode_question: Callable[[bytes], Question] = msgspec.msgpack.Decoder(Question).decode
decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


@cache
def dtype_named(name: str) -> np.dtype:
    """numpy's dtype of a name, those of ml_dtypes among them."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


@cache
def name_of(dtype: np.dtype) -> str:
    """A dtype's name; numpy puts it together anew each time it is asked."""
    return dtype.name


def is_plain(array: np.ndarray) -> bool:
    """Whether an array has a place in shared memory."""
    return array.nbytes > 0 and array.dtype.kind not in "OUS"


def write(value: Any, apart: list[np.ndarray] | None = None) -> Any:
    """A value that has no place in shared memory as plain lists, numbers, texts and bytes.

    Parameters
    ----------
    value : array, list, tuple, dict, str, bytes, number or None
    apart : list of array, optional
        Gets the tensors in it that have a place in shared memory, in the order in which `read` wants them again.

    Raises
    ------
    InvalidInput
        For an object that is none of ONNX's.

    Examples
    --------
    >>> read(write(np.array(["a", "bc"], dtype=object))).tolist()
    ['a', 'bc']
    >>> read(write([np.zeros(0, np.int64), None]))
    [array([], dtype=int64), None]
    >>> apart = []
    >>> read(write([np.ones(2), "x"], apart), iter(apart))
    [array([1., 1.]), 'x']
    """
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            return ["o", value.shape, [write(item, apart) for item in value.ravel().tolist()]]
        if apart is not None and is_plain(value):
            apart.append(value)
            return ["p"]
        return ["a", value.dtype.name, value.shape, value.tobytes()]
    if isinstance(value, (list, tuple)):
        return ["l", [write(item, apart) for item in value]]
    if isinstance(value, dict):
        return ["d", [[key, write(item, apart)] for key, item in value.items()]]
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return value
    raise InvalidInput(f"a {type(value).__name__} cannot be passed to a worker", remedy="give arrays, texts, lists")


def read(written: Any, apart: Iterator[np.ndarray] | None = None) -> Any:
    """What `write` wrote; ``apart`` gives the tensors that it left out."""
    if not isinstance(written, (list, tuple)):
        return written
    kind, *rest = written
    if kind == "p":
        assert apart is not None  # whoever wrote it has them apart
        return next(apart)
    if kind == "a":
        dtype, shape, data = rest
        return np.frombuffer(data, dtype_named(dtype)).reshape(tuple(shape)).copy()
    if kind == "o":
        shape, items = rest
        array = np.empty(len(items), dtype=object)
        for index, item in enumerate(items):
            array[index] = read(item, apart)
        return array.reshape(tuple(shape))
    if kind == "d":
        return {key: read(item, apart) for key, item in rest[0]}
    return [read(item, apart) for item in rest[0]]
