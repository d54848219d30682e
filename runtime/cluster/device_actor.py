"""The Ray actor that runs the segments of one device on a node of a cluster.

For a driver on the same machine it connects to a socket and serves it like any worker, with tensors in shared memory.
For a driver elsewhere it runs segments on the values that Ray brings and leaves the outputs in its node's object store
until they are needed: the driver passes references, not tensors.
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

from ..core_affinity import stay_on
from ..device import Device
from ..engines import load
from ..engines.base import LoadOptions
from ..engines.common.bound_module import BoundModule
from ..errors import ErrorRecord, error_record
from ..tensors.containers import total_bytes
from ..tensors.conversions import Conversion, ConversionLog
from ..workers.channel import Channel
from ..workers.messages import deserialise, dtype_from_name, dtype_name, encode, serialise
from ..workers.worker_main import serve

INLINE_BYTES = 64 << 10
"""Values up to this size travel with the request or the reply; larger ones through the object stores."""

EncodedSetup = tuple[bytes, bytes]
"""Device and `LoadOptions` as JSON: plain data, whatever class the node's version of trisect has."""


@dataclass(frozen=True)
class RawArray:
    """The bytes of an array whose dtype numpy does not have; Ray would copy the array itself."""

    dtype: str
    raw: np.ndarray


@dataclass(frozen=True)
class SerialisedObject:
    """Strings, a list or an optional as `serialise` returns it, and its tensors, each as Ray carries it."""

    data: bytes
    elements: tuple[Any, ...]


@dataclass(frozen=True)
class OutputDescription:
    """Dtype, shape and size of an output that stays on its node."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class RunReport:
    """Times, on the node's own clock, and descriptions of a run's outputs; or its error."""

    start_s: float = 0.0
    end_s: float = 0.0
    outputs: tuple[OutputDescription, ...] = ()
    converted: tuple[Conversion, ...] = ()
    error: ErrorRecord | None = None


def encode_setup(device: Device, options: LoadOptions) -> EncodedSetup:
    """Return the setup that `DeviceActor.load` takes."""
    return msgspec.json.encode(device), msgspec.json.encode(options, enc_hook=dict)


class DeviceActor:
    """The segments of one device on one node; used as a Ray actor."""

    def __init__(self) -> None:
        self._segments: dict[int, tuple[BoundModule, tuple[str, ...], tuple[str, ...]]] = {}

    def __repr__(self) -> str:
        devices = {module.module.device.id for module, _, _ in self._segments.values()}
        return f"trisect {', '.join(sorted(devices))}"

    def connect_to_driver(self, family: int, address: Any, token: bytes, cores: Sequence[int]) -> int:
        """Connect to the driver on this machine and serve it in the background; return the process's id at once."""
        stay_on(cores)
        connected = socket.socket(family, socket.SOCK_STREAM)
        connected.connect(address)
        connected.sendall(token)
        threading.Thread(target=serve, args=(Channel(connected),), name="trisect worker", daemon=True).start()
        return os.getpid()

    def clock_s(self) -> float:
        """Return this process's clock, for the driver to compare with its own."""
        return time.perf_counter()

    def load(
        self,
        setup: EncodedSetup,
        folder: str,
        index: int,
        file: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> RunReport:
        """Load a segment, given by its index, file name, inputs and outputs; the report has nothing but an error."""
        try:
            device = msgspec.json.decode(setup[0], type=Device)
            options = msgspec.json.decode(setup[1], type=LoadOptions)
            self._segments[index] = (BoundModule(load(Path(folder) / file, device, options)), inputs, outputs)
        except Exception as error:  # a third-party engine may raise anything; the driver raises it
            return RunReport(error=error_record(error))
        return RunReport()

    def run(self, index: int, *values: Any) -> tuple[Any, ...]:
        """Run a segment; return a report, then its outputs, each an object of Ray's."""
        module, inputs, names = self._segments[index]
        log = ConversionLog()
        try:
            feeds = {name: from_ray_value(value) for name, value in zip(inputs, values, strict=True)}
            start_s = time.perf_counter()
            computed = module.run(feeds, log)
            end_s = time.perf_counter()
        except Exception as error:  # a third-party engine may raise anything: the run fails, not the actor
            return (RunReport(error=error_record(error)), *[None] * len(names))
        arrays = [computed[name] for name in names]
        outputs = tuple(OutputDescription(dtype_name(a.dtype), a.shape, total_bytes(a)) for a in arrays)
        report = RunReport(start_s, end_s, outputs, tuple(log))
        return (report, *map(to_ray_value, arrays))


def to_ray_value(array: np.ndarray) -> Any:
    """Return an array in a form that Ray carries without a copy.

    Examples
    --------
    >>> import ml_dtypes
    >>> from_ray_value(to_ray_value(np.ones(2, ml_dtypes.bfloat16))).dtype.name
    'bfloat16'
    >>> from_ray_value(to_ray_value(np.array(["a", "b"], object))).tolist()
    ['a', 'b']
    """
    if array.dtype.kind in "OUS":  # Ray would pickle the objects
        elements: list[np.ndarray] = []
        data = encode(serialise(array, elements))
        return SerialisedObject(data, tuple(map(to_ray_value, elements)))
    if array.dtype.isbuiltin == 1:
        return array
    raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)
    return RawArray(array.dtype.name, raw)


def from_ray_value(value: Any) -> np.ndarray:
    """Return the array that `to_ray_value` was given."""
    if isinstance(value, SerialisedObject):
        elements = iter([from_ray_value(element) for element in value.elements])
        return cast("np.ndarray", deserialise(msgspec.msgpack.decode(value.data), elements))
    if isinstance(value, RawArray):
        return np.asarray(value.raw.view(dtype_from_name(value.dtype)))
    return np.asarray(value)
