"""The driver's side of a worker: loads segments there, and runs them on tensors of a shared pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from .. import errors
from ..device import Device
from ..engines.base import LoadOptions
from ..errors import DeviceLost, EngineFailed, TrisectError
from ..plans.plan_parts import Segment
from ..tensors.conversions import Conversion
from .channel import Channel, ChannelClosed
from .messages import (
    Answer,
    Done,
    Failed,
    Load,
    Map,
    Placed,
    Question,
    Run,
    Store,
    Unmap,
    Value,
    Wanted,
    Written,
    decode_answer,
    dtype_named,
    encode,
    is_plain,
    name_of,
    read,
    write,
)
from .tensor_pool import Pool

_MOST_SHAPES = 64


class Ran(NamedTuple):
    """What a run of a segment gave, and when it computed, on the clock of `time.perf_counter`."""

    outputs: dict[str, Any]
    start_s: float
    end_s: float
    converted: Sequence[Conversion] = ()
    """What tensors went through on their way in and out."""


class Worker:
    """A worker at the other end of a channel; one caller at a time.

    Parameters
    ----------
    channel : Channel
    pool : Pool
        Shared memory, which the worker maps chunk by chunk as tensors come to lie there.
    device : Device
        Where it runs what it loads.

    Notes
    -----
    Each method raises `DeviceLost` when the worker is gone. The tensors that it made are still there then.
    """

    def __init__(self, channel: Channel, pool: Pool, device: Device) -> None:
        self.device = device
        self._channel = channel
        self._pool = pool
        self._mapped: set[int] = set()
        self._dropped = 0
        self._lock = threading.Lock()
        self._shapes: dict[tuple[Any, ...], list[tuple[np.dtype, tuple[int, ...]]]] = {}

    def load(self, segment: Segment, model: Path, options: LoadOptions) -> None:
        """Load a segment.

        Raises
        ------
        EngineFailed
            With the engine's reason.
        """
        names = [tuple(spec.name for spec in specs) for specs in (segment.inputs, segment.outputs)]
        self._ask(Load(segment.index, str(model), names[0], names[1], self.device, options))

    def run(self, segment: Segment, feeds: Mapping[str, Any]) -> Ran:
        """Run a segment that was loaded.

        Parameters
        ----------
        segment : Segment
        feeds : mapping of str to array
            Those that lie in the pool are not copied.

        Returns
        -------
        Ran
            Its arrays lie in the pool.

        Raises
        ------
        EngineFailed
            With the engine's reason; the worker goes on.
        OutOfMemory
            Where there is none for the outputs.
        """
        with self._conversation():
            arrays = [feeds[spec.name] for spec in segment.inputs]
            inputs: list[Value] = []
            held: list[np.ndarray] = []  # until the worker has read them
            for index, array in enumerate(arrays):
                place = self._pool.locate(array)
                if place is None and is_plain(array):
                    arrays[index] = array = self._pool.copy(array)
                    place = self._pool.locate(array)
                if place is not None:
                    inputs.append(self._placed(place.chunk, place.offset, array))
                    continue
                elements: list[np.ndarray] = []
                written = write(array, elements)
                elements = [self._pool.copy(e) if self._pool.locate(e) is None else e for e in elements]
                held += elements
                inputs.append(Written(written, tuple(self._place(element) for element in elements)))
            key = (segment.index, *[array.shape for array in arrays])
            made = [self._pool.empty(*kind) for kind in self._shapes.get(key, ())]
            done = self._ask_locked(Run(segment.index, inputs, [self._place(array) for array in made]))
            if not isinstance(done, Done):
                raise EngineFailed(f"the worker of {self.device.id} gave no outputs")
            outputs = self._outputs(done.outputs, made)
            if any(isinstance(value, Wanted) for value in done.outputs) and all(is_plain(a) for a in outputs):
                if len(self._shapes) >= _MOST_SHAPES:
                    self._shapes.clear()
                self._shapes[key] = [(array.dtype, array.shape) for array in outputs]
        names = [spec.name for spec in segment.outputs]
        return Ran(dict(zip(names, outputs, strict=True)), done.start_s, done.end_s, done.converted)

    def close(self) -> None:
        """Hang up: the worker ends."""
        self._channel.close()

    @contextmanager
    def _conversation(self) -> Iterator[None]:
        """Questions and answers; one cut short by Ctrl-C ends all: no late answer must be taken for another's."""
        with self._lock:
            try:
                yield
            except TrisectError:
                raise
            except BaseException:
                self._channel.close()
                raise

    def _outputs(self, values: list[Value], made: list[np.ndarray]) -> list[Any]:
        outputs: list[Any] = []
        stored: list[Placed] = []
        for index, value in enumerate(values):
            if isinstance(value, Written):
                elements = [self._wanted(element) for element in value.elements if isinstance(element, Wanted)]
                stored += [self._place(element) for element in elements]
                outputs.append(read(value.value, iter(elements)))
            elif isinstance(value, Wanted):
                outputs.append(self._wanted(value))
                stored.append(self._place(outputs[-1]))
            else:
                outputs.append(made[index])
        if stored:
            self._ask_locked(Store(stored))
        return outputs

    def _wanted(self, value: Wanted) -> np.ndarray:
        return self._pool.empty(dtype_named(value.dtype), value.shape)

    def _place(self, array: np.ndarray) -> Placed:
        place = self._pool.locate(array)
        assert place is not None  # it was just made there
        return self._placed(place.chunk, place.offset, array)

    def _placed(self, chunk: int, offset: int, array: np.ndarray) -> Placed:
        if chunk not in self._mapped:
            self._map(chunk)
        return Placed(name_of(array.dtype), array.shape, chunk, offset)

    def _map(self, number: int) -> None:
        dropped = self._pool.dropped[self._dropped :]
        if dropped:
            self._dropped += len(dropped)
            gone = self._mapped.intersection(dropped)
            self._mapped -= gone
            self._send(Unmap(sorted(gone)), [])
        chunk = self._pool.chunk(number)
        descriptors = [] if chunk.descriptor is None else [chunk.descriptor]
        self._send(Map(number, chunk.size_bytes, chunk.name), descriptors)
        self._mapped.add(number)

    def _ask(self, question: Question) -> Answer:
        with self._conversation():
            return self._ask_locked(question)

    def _ask_locked(self, question: Question) -> Answer:
        self._send(question, [])
        try:
            answer = decode_answer(self._channel.receive())
        except (ChannelClosed, msgspec.MsgspecError) as error:
            raise self._lost(error) from error
        if isinstance(answer, Failed):
            kind = getattr(errors, answer.kind, EngineFailed)
            if not (isinstance(kind, type) and issubclass(kind, TrisectError)):
                kind = EngineFailed
            raise kind(answer.message, remedy=answer.remedy)
        return answer

    def _send(self, question: Question, descriptors: list[int]) -> None:
        try:
            self._channel.send(encode(question), descriptors)
        except ChannelClosed as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> DeviceLost:
        return DeviceLost(f"the worker of {self.device.id} is gone ({error})")
