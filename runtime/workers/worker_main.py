"""The worker's side: loads segments and runs them on tensors in memory that the driver shares, until it hangs up.

``serve`` is the loop over one channel, wherever that came from; ``main`` is a process of its own around it.
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

from ..engines.common.bound_module import BoundModule, Outputs
from ..errors import EngineFailed, OutOfMemory, TrisectError
from ..tensors.conversions import ConversionLog
from .channel import Channel, ChannelClosed
from .messages import (
    Answer,
    Done,
    Failed,
    Load,
    Loaded,
    Map,
    Placed,
    Run,
    Store,
    Unmap,
    Value,
    Wanted,
    Written,
    decode_question,
    dtype_named,
    encode,
    is_plain,
    read,
    write,
)
from .shared_memory import map_chunk

TOKEN_BYTES = 32
_PR_SET_PDEATHSIG = 1
_WATCH_S = 0.5


def serve(channel: Channel) -> None:
    """Answer a driver until it hangs up, then close what was loaded."""
    worker = _Serving()
    try:
        while True:
            question = decode_question(channel.receive())
            if isinstance(question, Map):
                worker.map(question, None if question.name else channel.take_descriptor())
            elif isinstance(question, Unmap):
                worker.unmap(question)
            else:
                channel.send(encode(worker.answer(question)))
    except (ChannelClosed, msgspec.MsgspecError, OutOfMemory):
        # A driver that is gone, or speaks another language, has nothing more to ask; one whose memory cannot be seen
        # here expects no answer to that, and is told by the end.
        pass
    finally:
        worker.close()
        channel.close()


class _Serving:
    """Segments and memory of one driver."""

    def __init__(self) -> None:
        self._buffers: dict[int, Any] = {}
        self._segments: dict[int, tuple[BoundModule, Load]] = {}
        self._waiting: list[np.ndarray] = []

    def map(self, question: Map, descriptor: int | None) -> None:
        self._buffers[question.chunk] = map_chunk(question.size_bytes, descriptor, question.name)

    def unmap(self, question: Unmap) -> None:
        for number in question.chunks:
            self._buffers.pop(number, None)

    def answer(self, question: Load | Run | Store) -> Answer:
        try:
            if isinstance(question, Run):
                return self._run(question)
            if isinstance(question, Load):
                self._load(question)
            else:
                for place, array in zip(question.outputs, self._waiting, strict=True):
                    self._view(place)[...] = array
                self._waiting = []
            return Loaded()
        except TrisectError as error:
            return Failed(type(error).__name__, error.message, error.remedy)
        except MemoryError:
            return Failed(OutOfMemory.__name__, "the worker has no memory left", "use a smaller window")
        except Exception as error:  # an engine from elsewhere may raise anything: one call's failure, not the worker's
            return Failed(EngineFailed.__name__, f"{type(error).__name__}: {' '.join(str(error).split())}"[:400], None)

    def close(self) -> None:
        for module, _ in self._segments.values():
            module.close()
        self._segments.clear()
        self._buffers.clear()

    def _load(self, load: Load) -> None:
        from ..engines import load as load_module

        module = load_module(Path(load.model), load.device, load.options)
        self._segments[load.segment] = (BoundModule(module), load)

    def _run(self, run: Run) -> Done:
        module, load = self._segments[run.segment]
        feeds = {name: self._value(value) for name, value in zip(load.inputs, run.inputs, strict=True)}
        if run.outputs:
            given = {name: self._view(place) for name, place in zip(load.outputs, run.outputs, strict=True)}
            if _fit(given, module.outputs_for(feeds)):
                start_s = time.perf_counter()
                if module.run_into(feeds, given, keep=all(isinstance(value, Placed) for value in run.inputs)):
                    return Done(start_s, time.perf_counter(), list(run.outputs))
        start_s = time.perf_counter()
        log = ConversionLog()
        made = module.run(feeds, log)
        outputs: list[Value] = []
        self._waiting = []
        for index, name in enumerate(load.outputs):
            array = made[name]
            if not is_plain(array):
                elements: list[np.ndarray] = []
                written = write(array, elements)
                self._waiting += elements
                outputs.append(Written(written, tuple(Wanted(e.dtype.name, e.shape) for e in elements)))
                continue
            place = run.outputs[index] if run.outputs else None
            if place is not None and (place.dtype, place.shape) == (array.dtype.name, array.shape):
                self._view(place)[...] = array
                outputs.append(place)
            else:
                self._waiting.append(array)
                outputs.append(Wanted(array.dtype.name, array.shape))
        return Done(start_s, time.perf_counter(), outputs, tuple(log))

    def _value(self, value: Value) -> Any:
        if isinstance(value, Placed):
            return self._view(value)
        assert isinstance(value, Written)
        return read(value.value, (self._view(place) for place in value.elements if isinstance(place, Placed)))

    def _view(self, place: Placed) -> np.ndarray:
        return np.ndarray(place.shape, dtype_named(place.dtype), self._buffers[place.chunk], place.offset)


def _fit(given: dict[str, np.ndarray], known: Outputs | None) -> bool:
    return known is not None and all(known.kinds.get(name) == (a.dtype, a.shape) for name, a in given.items())


def main(descriptor: int, port: int, cores: list[int]) -> None:
    """Serve the process that started this one, and end with it.

    Parameters
    ----------
    descriptor : int
        Of a connected Unix socket; -1 where there are none.
    port : int
        To connect to on loopback where there are none; the secret to show there comes over standard input.
    cores : list of int
        Processor cores to stay on; empty = wherever the system likes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, who hangs up
    if descriptor >= 0:
        connected = socket.socket(fileno=descriptor)
    else:
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(sys.stdin.buffer.read(TOKEN_BYTES))
    os.dup2(2, 1)  # libraries print to standard output, which is the driver's to use
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        _die_with_parent()
    watch = _watch_socket if hasattr(select, "poll") else _watch_parent
    threading.Thread(target=watch, args=(connected.fileno(), os.getppid()), daemon=True).start()
    serve(Channel(connected))


def _die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it, even inside an engine that holds all locks."""
    with suppress(OSError, AttributeError):  # without it there is still the watch
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch_socket(descriptor: int, parent: int) -> None:
    """End this process when the driver's end is closed, also in the middle of a run."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    poll.poll()
    os._exit(0)


def _watch_parent(descriptor: int, parent: int) -> None:
    """The same where a socket's end cannot be waited for beside its reader."""
    while psutil.pid_exists(parent):
        time.sleep(_WATCH_S)
    os._exit(0)
