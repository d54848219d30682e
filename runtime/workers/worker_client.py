"""The driver's side of a worker: loads segments there and runs them on tensors in shared memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..device import Device
from ..engines.base import LoadOptions
from ..errors import DeviceLost, EngineFailed, TrisectError, error_from_record
from ..plans.plan_parts import Segment
from ..tensors.conversions import Conversion
from .channel import Channel, ChannelClosed
from .messages import (
    InlineValue,
    LoadSegment,
    MapChunk,
    RequestFailed,
    RunFinished,
    RunSegment,
    SharedTensor,
    StoreOutputs,
    UnmapChunks,
    UnplacedTensor,
    WireValue,
    WorkerReply,
    WorkerRequest,
    decode_reply,
    deserialise,
    dtype_from_name,
    dtype_name,
    encode,
    is_shareable,
    serialise,
)
from .tensor_pool import TensorPool

_CACHED_SHAPES_MAX = 64


class SegmentRun(NamedTuple):
    """The outputs of one run of a segment, and when it computed, on the clock of `time.perf_counter`."""

    outputs: dict[str, Any]
    start_s: float
    end_s: float
    converted: Sequence[Conversion] = ()
    """Conversions of its inputs and outputs."""


class WorkerClient:
    """Sends requests to a worker over a channel; one caller at a time.

    The worker runs segments on one device. It maps the pool, which is shared memory, chunk by chunk when a tensor in it
    is used. Each method raises `DeviceLost` where the worker is gone; the tensors that it computed remain.
    """

    def __init__(self, channel: Channel, pool: TensorPool, device: Device) -> None:
        self.device = device
        self._channel = channel
        self._pool = pool
        self._mapped: set[int] = set()
        self._dropped_count = 0
        self._lock = threading.Lock()
        self._expected: dict[tuple[Any, ...], list[tuple[np.dtype, tuple[int, ...]]]] = {}
        """Segment and shapes of its inputs -> dtypes and shapes of its outputs, from earlier runs."""

    def load(self, segment: Segment, model: Path, options: LoadOptions) -> None:
        """Load a segment.

        Raises
        ------
        EngineFailed
            With the engine's reason.
        """
        names = [tuple(spec.name for spec in specs) for specs in (segment.inputs, segment.outputs)]
        request = LoadSegment(segment.index, str(model), names[0], names[1], self.device, options)
        with self._exchange():
            self._request_locked(request)

    def run(self, segment: Segment, feeds: Mapping[str, Any]) -> SegmentRun:
        """Run a segment that was loaded; its outputs, and feeds that lie in the pool already, are not copied.

        Raises
        ------
        EngineFailed
            With the engine's reason; the worker continues.
        OutOfMemory
            Where there is no memory for the outputs.
        """
        with self._exchange():
            arrays = [feeds[spec.name] for spec in segment.inputs]
            inputs: list[WireValue] = []
            held: list[np.ndarray] = []  # until the worker has read them
            for index, array in enumerate(arrays):
                place = self._pool.locate(array)
                if place is None and is_shareable(array):
                    arrays[index] = array = self._pool.copy(array)
                    place = self._pool.locate(array)
                if place is not None:
                    inputs.append(self._shared_tensor(place.chunk, place.offset, array))
                else:
                    inputs.append(self._inline_value(array, held))
            key = (segment.index, *[array.shape for array in arrays])
            reserved = [self._pool.empty(*kind) for kind in self._expected.get(key, ())]
            places = [self._share(array) for array in reserved]
            finished = self._request_locked(RunSegment(segment.index, inputs, places))
            if not isinstance(finished, RunFinished):
                raise EngineFailed(f"the worker of {self.device.id} returned no outputs", device=self.device.id)
            outputs = self._read_outputs(finished.outputs, reserved)
            has_unplaced = any(isinstance(value, UnplacedTensor) for value in finished.outputs)
            if has_unplaced and all(is_shareable(array) for array in outputs):
                if len(self._expected) >= _CACHED_SHAPES_MAX:
                    self._expected.clear()
                self._expected[key] = [(array.dtype, array.shape) for array in outputs]
        names = [spec.name for spec in segment.outputs]
        return SegmentRun(
            dict(zip(names, outputs, strict=True)), finished.start_s, finished.end_s, finished.converted
        )  # fmt: skip

    def close(self) -> None:
        """Close the channel: the worker ends."""
        self._channel.close()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Lock the channel; one that is interrupted by Ctrl-C is closed, so that no late reply is misread."""
        with self._lock:
            try:
                yield
            except TrisectError:
                raise
            except BaseException:
                self._channel.close()
                raise

    def _inline_value(self, array: Any, held: list[np.ndarray]) -> InlineValue:
        elements: list[np.ndarray] = []
        data = serialise(array, elements)
        elements = [self._pool.copy(e) if self._pool.locate(e) is None else e for e in elements]
        held += elements
        return InlineValue(data, tuple(self._share(element) for element in elements))

    def _read_outputs(self, values: list[WireValue], reserved: list[np.ndarray]) -> list[Any]:
        """Return the outputs of a run, after placing those that had no place."""
        outputs: list[Any] = []
        placed: list[SharedTensor] = []
        for index, value in enumerate(values):
            if isinstance(value, InlineValue):
                elements = [self._allocate(e) for e in value.elements if isinstance(e, UnplacedTensor)]
                placed += [self._share(element) for element in elements]
                outputs.append(deserialise(value.value, iter(elements)))
            elif isinstance(value, UnplacedTensor):
                outputs.append(self._allocate(value))
                placed.append(self._share(outputs[-1]))
            else:
                outputs.append(reserved[index])
        if placed:
            self._request_locked(StoreOutputs(placed))
        return outputs

    def _allocate(self, tensor: UnplacedTensor) -> np.ndarray:
        return self._pool.empty(dtype_from_name(tensor.dtype), tensor.shape)

    def _share(self, array: np.ndarray) -> SharedTensor:
        place = self._pool.locate(array)
        assert place is not None  # it was allocated there
        return self._shared_tensor(place.chunk, place.offset, array)

    def _shared_tensor(self, chunk: int, offset: int, array: np.ndarray) -> SharedTensor:
        if chunk not in self._mapped:
            self._map(chunk)
        return SharedTensor(dtype_name(array.dtype), array.shape, chunk, offset)

    def _map(self, number: int) -> None:
        dropped = self._pool.dropped[self._dropped_count :]
        if dropped:
            self._dropped_count += len(dropped)
            unmapped = self._mapped.intersection(dropped)
            self._mapped -= unmapped
            self._send(UnmapChunks(sorted(unmapped)), [])
        chunk = self._pool.chunk(number)
        descriptors = [] if chunk.descriptor is None else [chunk.descriptor]
        self._send(MapChunk(number, chunk.size_bytes, chunk.name), descriptors)
        self._mapped.add(number)

    def _request_locked(self, request: WorkerRequest) -> WorkerReply:
        self._send(request, [])
        try:
            reply = decode_reply(self._channel.receive())
        except (ChannelClosed, msgspec.MsgspecError) as error:
            raise self._lost(error) from error
        if isinstance(reply, RequestFailed):
            raise error_from_record(reply.error)
        return reply

    def _send(self, request: WorkerRequest, descriptors: list[int]) -> None:
        try:
            self._channel.send(encode(request), descriptors)
        except ChannelClosed as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> DeviceLost:
        message = f"the worker of {self.device.id} is gone ({error})"
        return DeviceLost(message, device=self.device.id, reason=str(error))
