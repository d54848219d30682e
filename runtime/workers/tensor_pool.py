"""A pool of reusable memory for tensors, which other processes can map.

The driver owns all memory, for inputs and outputs: a worker that dies loses no tensor and leaks no memory. An array
owns its slot: the slot is free again when the array and all its views are gone. Slots are cut from chunks: a large slot
is a chunk of its own, small ones share a chunk.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from bisect import bisect_right
from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np

from ..errors import OutOfMemory
from .shared_memory import MemoryChunk, private_chunk, shared_chunk

LARGE_BYTES = 1 << 20
"""From this size on, a slot is a chunk of its own, which can be freed alone."""
_CHUNK_BYTES = 8 << 20
_FREE_BYTES_MAX = 256 << 20
"""Free memory that is always cached for the next tensors."""
_DECAY_TENSORS = 256
"""Number of tensors after which an earlier peak counts for about a third."""


class PoolSlot(NamedTuple):
    """Where an array lies in a pool."""

    chunk: int
    offset: int


class _SlotRef(weakref.ref[np.ndarray]):
    """A weak reference to an array, with the slot that is free when the array is gone."""

    slot: PoolSlot
    size_bytes: int


class TensorPool:
    """Allocates arrays in memory that is reused.

    Parameters
    ----------
    shared : bool
        Whether other processes can map it.

    Examples
    --------
    >>> pool = TensorPool(shared=False)
    >>> first = pool.empty(np.dtype("float32"), (2, 3))
    >>> slot = pool.locate(first)
    >>> del first
    >>> pool.locate(pool.empty(np.dtype("float32"), (3, 2))) == slot
    True
    """

    def __init__(self, *, shared: bool) -> None:
        self._new_chunk = shared_chunk if shared else private_chunk
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._chunks: dict[int, MemoryChunk] = {}
        self._addresses: list[tuple[int, int]] = []
        self._free: defaultdict[int, list[PoolSlot]] = defaultdict(list)
        self._refs: dict[int, _SlotRef] = {}
        # Arrays can be garbage-collected at any time, also while this thread holds the lock: their slots wait here.
        self._released: deque[_SlotRef] = deque()
        self._open: tuple[int, int] | None = None
        self._live_bytes = 0
        self._decaying_peak_bytes = 0
        self._free_large_bytes = 0
        self.dropped: list[int] = []
        """Numbers of the freed chunks, in order, so that other processes can unmap them."""

    def empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Return an uninitialised array in the pool.

        Raises
        ------
        OutOfMemory
            Where the system has no memory left.
        """
        size = slot_bytes(math.prod(shape) * dtype.itemsize)
        with self._lock:
            self._collect()
            if self._free[size]:
                slot = self._free[size].pop()
                self._free_large_bytes -= size if size >= LARGE_BYTES else 0
            else:
                slot = self._carve(size)
            chunk = self._chunks[slot.chunk]
            array: np.ndarray = np.ndarray(shape, dtype, chunk.buffer, slot.offset)
            ref = _SlotRef(array, self._released.append)
            ref.slot, ref.size_bytes = slot, size
            self._refs[id(ref)] = ref
            self._live_bytes += size
            decayed = self._decaying_peak_bytes - self._decaying_peak_bytes // _DECAY_TENSORS
            self._decaying_peak_bytes = max(self._live_bytes, decayed)
        return array

    def copy(self, array: np.ndarray) -> np.ndarray:
        """Return a copy of an array in the pool."""
        own = self.empty(array.dtype, array.shape)
        own[...] = array
        return own

    def locate(self, array: np.ndarray) -> PoolSlot | None:
        """Return where an array lies; None for one that is not C-ordered or not in the pool."""
        if not array.flags.c_contiguous or not array.nbytes:
            return None
        address: int = array.__array_interface__["data"][0]
        with self._lock:
            index = bisect_right(self._addresses, (address, 1 << 62)) - 1
            if index < 0:
                return None
            start, number = self._addresses[index]
            inside = address + array.nbytes <= start + self._chunks[number].size_bytes
        return PoolSlot(number, address - start) if inside else None

    def alias(self, array: np.ndarray) -> np.ndarray | None:
        """Return an array in the same memory that does not own the slot, for bindings; None for one not in the pool."""
        slot = self.locate(array)
        if slot is None:
            return None
        return np.ndarray(array.shape, array.dtype, self._chunks[slot.chunk].buffer, slot.offset)

    def chunk(self, number: int) -> MemoryChunk:
        """Return a chunk by its number."""
        return self._chunks[number]

    @property
    def size_bytes(self) -> int:
        """Memory of the pool, in use or free."""
        with self._lock:
            return sum(chunk.size_bytes for chunk in self._chunks.values())

    @property
    def live_bytes(self) -> int:
        """Memory of arrays that are alive."""
        with self._lock:
            self._collect()
            return self._live_bytes

    def close(self) -> None:
        """Free all memory that no array uses; the rest is freed with its arrays."""
        with self._lock:
            for chunk in self._chunks.values():
                chunk.close()
            self._chunks.clear()
            self._addresses.clear()
            self._free.clear()
            self._released.clear()
            self._refs.clear()
            self._open = None

    def _collect(self) -> None:
        while self._released:
            ref = self._released.popleft()
            del self._refs[id(ref)]
            self._live_bytes -= ref.size_bytes
            self._free[ref.size_bytes].append(ref.slot)
            if ref.size_bytes >= LARGE_BYTES:
                self._free_large_bytes += ref.size_bytes
        while self._free_large_bytes > max(_FREE_BYTES_MAX, self._decaying_peak_bytes):
            self._drop_largest()

    def _drop_largest(self) -> None:
        size = max(size for size, slots in self._free.items() if size >= LARGE_BYTES and slots)
        slot = self._free[size].pop(0)
        chunk = self._chunks.pop(slot.chunk)
        self._addresses.remove((chunk.address, slot.chunk))
        self._free_large_bytes -= size
        self.dropped.append(slot.chunk)
        chunk.close()

    def _carve(self, size: int) -> PoolSlot:
        """Cut a new slot from a chunk."""
        if size >= LARGE_BYTES:
            return PoolSlot(self._add_chunk(size, size), 0)
        if self._open is None or self._open[1] + size > _CHUNK_BYTES:
            self._open = (self._add_chunk(_CHUNK_BYTES, size), 0)
        number, offset = self._open
        self._chunks[number].reserve(offset, size)
        self._open = (number, offset + size)
        return PoolSlot(number, offset)

    def _add_chunk(self, size: int, slot_size: int) -> int:
        chunk = self._new_chunk(size)
        if slot_size == size:
            try:
                chunk.reserve(0, size)
            except OutOfMemory:
                chunk.close()
                raise
        number = next(self._numbers)
        self._chunks[number] = chunk
        self._addresses.insert(bisect_right(self._addresses, (chunk.address, 0)), (chunk.address, number))
        return number


def slot_bytes(size_bytes: int) -> int:
    """Return the size of a slot: four sizes for each doubling, so that similar tensors can reuse slots.

    Examples
    --------
    >>> slot_bytes(0), slot_bytes(65), slot_bytes(1 << 20), slot_bytes((1 << 20) + 1)
    (64, 128, 1048576, 1310720)
    """
    if size_bytes <= 256:
        return max(64, -(-size_bytes // 64) * 64)
    step = 1 << ((size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step
