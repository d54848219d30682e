"""Memory for tensors that is used again and again, and that other processes can map.

The process that asks for work owns all memory, for what goes in and for what comes out: a worker that dies takes no
tensor along and leaves nothing behind. An array *is* the claim on its slot: the slot is free again when the array, and
every view of it, is gone. Slots come from chunks: a large one is a chunk of its own, small ones share.
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
from .shared_memory import Chunk, private_chunk, shared_chunk

LARGE_BYTES = 1 << 20
"""From here a slot is a chunk of its own, which can be given back alone."""
_CHUNK_BYTES = 8 << 20
_KEPT_BYTES = 256 << 20
"""Free memory that is kept for the next tensors, whatever was in use before."""
_FADING = 256
"""After so many tensors, what was in use at once before counts for about a third."""


class Place(NamedTuple):
    """Where in a pool an array lies."""

    chunk: int
    offset: int


class _Claim(weakref.ref[np.ndarray]):
    """Tells the pool when an array is gone."""

    place: Place
    size_bytes: int


class Pool:
    """Slots for arrays, used again.

    Parameters
    ----------
    shared : bool
        Whether other processes are to map it.

    Examples
    --------
    >>> pool = Pool(shared=False)
    >>> first = pool.empty(np.dtype("float32"), (2, 3))
    >>> place = pool.locate(first)
    >>> del first
    >>> pool.locate(pool.empty(np.dtype("float32"), (3, 2))) == place
    True
    """

    def __init__(self, *, shared: bool) -> None:
        self._make = shared_chunk if shared else private_chunk
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._chunks: dict[int, Chunk] = {}
        self._addresses: list[tuple[int, int]] = []
        self._free: defaultdict[int, list[Place]] = defaultdict(list)
        self._claims: dict[int, _Claim] = {}
        # Arrays are collected at any time, also while this thread holds the lock: what they leave waits here.
        self._left: deque[_Claim] = deque()
        self._open: tuple[int, int] | None = None
        self._live_bytes = 0
        self._recent_bytes = 0
        self._free_large_bytes = 0
        self.dropped: list[int] = []
        """Numbers of the chunks given back, in order: whoever mapped them lets them go too."""

    def empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of any values, whose memory is the pool's.

        Raises
        ------
        OutOfMemory
            Where the system has no more.
        """
        size = slot_bytes(math.prod(shape) * dtype.itemsize)
        with self._lock:
            self._collect()
            if self._free[size]:
                place = self._free[size].pop()
                self._free_large_bytes -= size if size >= LARGE_BYTES else 0
            else:
                place = self._carve(size)
            chunk = self._chunks[place.chunk]
            array: np.ndarray = np.ndarray(shape, dtype, chunk.buffer, place.offset)
            claim = _Claim(array, self._left.append)
            claim.place, claim.size_bytes = place, size
            self._claims[id(claim)] = claim
            self._live_bytes += size
            self._recent_bytes = max(self._live_bytes, self._recent_bytes - self._recent_bytes // _FADING)
        return array

    def copy(self, array: np.ndarray) -> np.ndarray:
        """A copy of an array in the pool."""
        own = self.empty(array.dtype, array.shape)
        own[...] = array
        return own

    def locate(self, array: np.ndarray) -> Place | None:
        """Where an array lies; None for one that is not C-ordered, or not in the pool."""
        if not array.flags.c_contiguous or not array.nbytes:
            return None
        address: int = array.__array_interface__["data"][0]
        with self._lock:
            index = bisect_right(self._addresses, (address, 1 << 62)) - 1
            if index < 0:
                return None
            start, number = self._addresses[index]
            inside = address + array.nbytes <= start + self._chunks[number].size_bytes
        return Place(number, address - start) if inside else None

    def alias(self, array: np.ndarray) -> np.ndarray | None:
        """The same memory without the claim on it, for bindings that outlive a tensor; None for what is not here."""
        place = self.locate(array)
        if place is None:
            return None
        return np.ndarray(array.shape, array.dtype, self._chunks[place.chunk].buffer, place.offset)

    def chunk(self, number: int) -> Chunk:
        """A chunk, by its number."""
        return self._chunks[number]

    @property
    def size_bytes(self) -> int:
        """All memory that the pool holds, in use or not."""
        with self._lock:
            return sum(chunk.size_bytes for chunk in self._chunks.values())

    @property
    def live_bytes(self) -> int:
        """Memory of arrays that are alive."""
        with self._lock:
            self._collect()
            return self._live_bytes

    def close(self) -> None:
        """Give back what no array holds any longer; what is still held goes with its array."""
        with self._lock:
            for chunk in self._chunks.values():
                chunk.close()
            self._chunks.clear()
            self._addresses.clear()
            self._free.clear()
            self._left.clear()
            self._claims.clear()
            self._open = None

    def _collect(self) -> None:
        while self._left:
            claim = self._left.popleft()
            del self._claims[id(claim)]
            self._live_bytes -= claim.size_bytes
            self._free[claim.size_bytes].append(claim.place)
            if claim.size_bytes >= LARGE_BYTES:
                self._free_large_bytes += claim.size_bytes
        while self._free_large_bytes > max(_KEPT_BYTES, self._recent_bytes):
            self._drop_largest()

    def _drop_largest(self) -> None:
        size = max(size for size, places in self._free.items() if size >= LARGE_BYTES and places)
        place = self._free[size].pop(0)
        chunk = self._chunks.pop(place.chunk)
        self._addresses.remove((chunk.address, place.chunk))
        self._free_large_bytes -= size
        self.dropped.append(place.chunk)
        chunk.close()

    def _carve(self, size: int) -> Place:
        if size >= LARGE_BYTES:
            return Place(self._grow(size, size), 0)
        if self._open is None or self._open[1] + size > _CHUNK_BYTES:
            self._open = (self._grow(_CHUNK_BYTES, size), 0)
        number, offset = self._open
        self._chunks[number].reserve(offset, size)
        self._open = (number, offset + size)
        return Place(number, offset)

    def _grow(self, size: int, wanted: int) -> int:
        chunk = self._make(size)
        if wanted == size:
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
    """Size of the slot for so many bytes: four sizes to each doubling, so that similar tensors share slots.

    Examples
    --------
    >>> slot_bytes(0), slot_bytes(65), slot_bytes(1 << 20), slot_bytes((1 << 20) + 1)
    (64, 128, 1048576, 1310720)
    """
    if size_bytes <= 256:
        return max(64, -(-size_bytes // 64) * 64)
    step = 1 << ((size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step
