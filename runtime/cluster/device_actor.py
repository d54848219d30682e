"""What runs on a node for one device: loads segments and runs them, for a driver there or elsewhere.

A driver on the same machine has it call a socket and serve that as any worker does, with tensors in shared memory. For
a driver elsewhere it runs segments on the values that Ray brings, and leaves what they make in its node's object store
until somebody wants it: the driver moves references, not tensors.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from ..device import Device
from ..engines import load
from ..engines.base import LoadOptions
from ..engines.common.bound_module import BoundModule
from ..errors import EngineFailed, OutOfMemory, TrisectError
from ..tensors.containers import carried_bytes
from ..tensors.conversions import Conversion, ConversionLog
from ..workers.channel import Channel
from ..workers.messages import dtype_named, encode, read, write
from ..workers.worker_main import serve

INLINE_BYTES = 64 << 10
"""Values up to here go along with the question or the answer; larger ones by way of the object stores."""

Setup = tuple[bytes, bytes]
"""Device and `LoadOptions` as JSON: plain data, whatever class the node's trisect makes of it."""


@dataclass(frozen=True)
class Foreign:
    """An array of a dtype that Ray would copy and numpy does not know: its bytes, and the dtype's name."""

    dtype: str
    raw: np.ndarray


@dataclass(frozen=True)
class Listed:
    """Strings, a list or an optional: written out as workers have it, and the tensors in it, each as Ray carries it."""

    written: bytes
    elements: tuple[Any, ...]


@dataclass(frozen=True)
class Report:
    """How a run went, on the node's own clock."""

    start_s: float = 0.0
    end_s: float = 0.0
    sizes_bytes: tuple[int, ...] = ()
    """Of the outputs."""
    converted: tuple[Conversion, ...] = ()
    error: tuple[str, str, str | None] | None = None
    """Kind, message and remedy of one of trisect's errors."""


def setup(device: Device, options: LoadOptions) -> Setup:
    """What `DeviceActor.load` takes."""
    return msgspec.json.encode(device), msgspec.json.encode(options, enc_hook=dict)


class DeviceActor:
    """One device's segments on one node; used as a Ray actor."""

    def __init__(self) -> None:
        self._segments: dict[int, tuple[BoundModule, tuple[str, ...], tuple[str, ...]]] = {}

    def __repr__(self) -> str:
        devices = {module.module.device.id for module, _, _ in self._segments.values()}
        return f"trisect {', '.join(sorted(devices))}"

    def call(self, family: int, address: Any, token: bytes, cores: Sequence[int]) -> int:
        """Call the driver on this machine and serve it until it hangs up; gives the process's number at once."""
        _stay_on(cores)
        connected = socket.socket(family, socket.SOCK_STREAM)
        connected.connect(address)
        connected.sendall(token)
        threading.Thread(target=serve, args=(Channel(connected),), name="trisect worker", daemon=True).start()
        return os.getpid()

    def clock_s(self) -> float:
        """This process's clock, for the driver to compare with its own."""
        return time.perf_counter()

    def load(
        self, how: Setup, folder: str, segments: Sequence[tuple[int, str, tuple[str, ...], tuple[str, ...]]]
    ) -> Report:
        """Load segments, given as number, file, inputs and outputs."""
        try:
            device = msgspec.json.decode(how[0], type=Device)
            options = msgspec.json.decode(how[1], type=LoadOptions)
            for index, file, inputs, outputs in segments:
                self._segments[index] = (BoundModule(load(Path(folder) / file, device, options)), inputs, outputs)
        except Exception as error:
            return Report(error=_told(error))
        return Report()

    def run(self, index: int, *values: Any) -> tuple[Any, ...]:
        """Run a segment: a report, then its outputs, each for Ray to keep by itself."""
        module, inputs, outputs = self._segments[index]
        log = ConversionLog()
        try:
            feeds = {name: unwrap(value) for name, value in zip(inputs, values, strict=True)}
            start_s = time.perf_counter()
            made = module.run(feeds, log)
            end_s = time.perf_counter()
        except Exception as error:  # an engine from elsewhere may raise anything: one run's failure, not the actor's
            return (Report(error=_told(error)), *[None] * len(outputs))
        arrays = [made[name] for name in outputs]
        return (Report(start_s, end_s, tuple(carried_bytes(array) for array in arrays), tuple(log)), *map(wrap, arrays))


def wrap(array: np.ndarray) -> Any:
    """An array as Ray carries it without a copy.

    Examples
    --------
    >>> import ml_dtypes
    >>> unwrap(wrap(np.ones(2, ml_dtypes.bfloat16))).dtype.name
    'bfloat16'
    >>> unwrap(wrap(np.array(["a", "b"], object))).tolist()
    ['a', 'b']
    """
    if array.dtype.kind in "OUS":
        # Ray would pickle the objects.
        elements: list[np.ndarray] = []
        written = encode(write(array, elements))
        return Listed(written, tuple(map(wrap, elements)))
    if array.dtype.isbuiltin == 1:
        return array
    return Foreign(array.dtype.name, np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape))


def unwrap(value: Any) -> np.ndarray:
    """The array that was wrapped."""
    if isinstance(value, Listed):
        read_back = read(msgspec.msgpack.decode(value.written), iter([unwrap(element) for element in value.elements]))
        return cast("np.ndarray", read_back)
    if isinstance(value, Foreign):
        return np.asarray(value.raw.view(dtype_named(value.dtype)))
    return np.asarray(value)


def _told(error: Exception) -> tuple[str, str, str | None]:
    if isinstance(error, TrisectError):
        return type(error).__name__, error.message, error.remedy
    if isinstance(error, MemoryError):
        return OutOfMemory.__name__, "the worker has no memory left", "use a smaller window"
    return EngineFailed.__name__, f"{type(error).__name__}: {' '.join(str(error).split())}"[:400], None


def _stay_on(cores: Sequence[int]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
