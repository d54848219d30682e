"""The worker's side: loads segments and runs them on tensors in shared memory until the driver closes the channel.

`serve` is the loop over one channel, wherever that comes from; `main` is the main program of a worker process.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from ..core_affinity import stay_on
from ..engines.common.bound_module import BoundModule, ExpectedOutputs
from ..errors import OutOfMemory, error_record
from ..tensors.conversions import ConversionLog
from .channel import TOKEN_BYTES, Channel, ChannelClosed
from .messages import (
    Acknowledged,
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
    decode_request,
    deserialise,
    dtype_from_name,
    dtype_name,
    encode,
    is_shareable,
    serialise,
)
from .shared_memory import map_chunk

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


def serve(channel: Channel) -> None:
    """Answer a driver until it closes the channel, then close what was loaded."""
    server = _SegmentServer()
    try:
        while True:
            request = decode_request(channel.receive())
            if isinstance(request, MapChunk):
                server.map(request, None if request.name else channel.take_descriptor())
            elif isinstance(request, UnmapChunks):
                server.unmap(request)
            else:
                channel.send(encode(server.reply(request)))
    except (ChannelClosed, msgspec.MsgspecError, OutOfMemory):
        # The driver is gone or of another version. Or its memory cannot be mapped here: it expects no reply to that
        # request, so that closing the channel is the only way to report it.
        pass
    finally:
        server.close()
        channel.close()


class _SegmentServer:
    """The loaded segments and mapped memory of one driver."""

    def __init__(self) -> None:
        self._buffers: dict[int, Any] = {}
        self._segments: dict[int, tuple[BoundModule, LoadSegment]] = {}
        self._unplaced: list[np.ndarray] = []

    def map(self, request: MapChunk, descriptor: int | None) -> None:
        self._buffers[request.chunk] = map_chunk(request.size_bytes, descriptor, request.name)

    def unmap(self, request: UnmapChunks) -> None:
        for number in request.chunks:
            self._buffers.pop(number, None)

    def reply(self, request: LoadSegment | RunSegment | StoreOutputs) -> WorkerReply:
        try:
            if isinstance(request, RunSegment):
                return self._run(request)
            if isinstance(request, LoadSegment):
                self._load(request)
            else:
                for place, array in zip(request.outputs, self._unplaced, strict=True):
                    self._view(place)[...] = array
                self._unplaced = []
            return Acknowledged()
        except Exception as error:  # a third-party engine may raise anything: the request fails, not the worker
            return RequestFailed(error_record(error))

    def close(self) -> None:
        for module, _ in self._segments.values():
            module.close()
        self._segments.clear()
        self._buffers.clear()

    def _load(self, request: LoadSegment) -> None:
        from ..engines import load

        module = load(Path(request.model), request.device, request.options)
        self._segments[request.segment] = (BoundModule(module), request)

    def _run(self, request: RunSegment) -> RunFinished:
        module, loaded = self._segments[request.segment]
        feeds = {name: self._value(value) for name, value in zip(loaded.inputs, request.inputs, strict=True)}
        if request.outputs:
            buffers = {name: self._view(place) for name, place in zip(loaded.outputs, request.outputs, strict=True)}
            if _match(buffers, module.expected_outputs(feeds)):
                start_s = time.perf_counter()
                keep = all(isinstance(value, SharedTensor) for value in request.inputs)
                if module.run_into(feeds, buffers, keep=keep):
                    return RunFinished(start_s, time.perf_counter(), list(request.outputs))
        start_s = time.perf_counter()
        log = ConversionLog()
        computed = module.run(feeds, log)
        self._unplaced = []
        outputs = [self._place(computed[name], request, index) for index, name in enumerate(loaded.outputs)]
        return RunFinished(start_s, time.perf_counter(), outputs, tuple(log))

    def _place(self, array: np.ndarray, request: RunSegment, index: int) -> WireValue:
        """Copy an output to its place if it has one; else keep it for `StoreOutputs`."""
        if not is_shareable(array):
            elements: list[np.ndarray] = []
            data = serialise(array, elements)
            self._unplaced += elements
            return InlineValue(data, tuple(UnplacedTensor(dtype_name(e.dtype), e.shape) for e in elements))
        place = request.outputs[index] if request.outputs else None
        if place is not None and (place.dtype, place.shape) == (dtype_name(array.dtype), array.shape):
            self._view(place)[...] = array
            return place
        self._unplaced.append(array)
        return UnplacedTensor(dtype_name(array.dtype), array.shape)

    def _value(self, value: WireValue) -> Any:
        if isinstance(value, SharedTensor):
            return self._view(value)
        assert isinstance(value, InlineValue)
        elements = (self._view(element) for element in value.elements if isinstance(element, SharedTensor))
        return deserialise(value.value, elements)

    def _view(self, place: SharedTensor) -> np.ndarray:
        return np.ndarray(place.shape, dtype_from_name(place.dtype), self._buffers[place.chunk], place.offset)


def _match(buffers: dict[str, np.ndarray], expected: ExpectedOutputs | None) -> bool:
    return expected is not None and all(
        expected.kinds.get(name) == (array.dtype, array.shape) for name, array in buffers.items()
    )


def main(descriptor: int, port: int, cores: list[int]) -> None:
    """Serve the process that started this one, and end with it.

    Parameters
    ----------
    descriptor : int
        Of a connected Unix socket; -1 where there are none.
    port : int
        To connect to on loopback instead; the token to send there is read from standard input.
    cores : list of int
        Processor cores to stay on; empty = all.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the driver, which closes the channel
    if descriptor >= 0:
        connected = socket.socket(fileno=descriptor)
    else:
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(sys.stdin.buffer.read(TOKEN_BYTES))
    os.dup2(2, 1)  # libraries print to standard output, which belongs to the driver
    stay_on(cores)
    if sys.platform == "linux":
        _die_with_parent()
    exit_when_orphaned = _exit_on_hangup if hasattr(select, "poll") else _exit_with_parent
    threading.Thread(target=exit_when_orphaned, args=(connected.fileno(), os.getppid()), daemon=True).start()
    serve(Channel(connected))


def _die_with_parent() -> None:
    """Make the kernel end this process with the thread that started it, even inside an engine that holds all locks."""
    with suppress(OSError, AttributeError):  # the watching thread is there in any case
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_on_hangup(descriptor: int, parent: int) -> None:
    """End this process when the driver closes its end of the socket, also in the middle of a run."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    poll.poll()
    os._exit(0)


def _exit_with_parent(descriptor: int, parent: int) -> None:
    """End this process with its parent, on systems that cannot poll a socket that another thread reads."""
    while psutil.pid_exists(parent):
        time.sleep(_POLL_S)
    os._exit(0)
