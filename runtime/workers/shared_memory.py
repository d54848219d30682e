"""Pieces of memory that two processes can see: how each system makes, hands over and forgets them.

On Linux a piece is a file without a name (`os.memfd_create`), handed over as a file descriptor: it is gone with the
last process that maps it, however that ends, and it does not count against ``/dev/shm``, which containers keep small.
Elsewhere it is `multiprocessing.shared_memory`, handed over by name, with Python's tracker to remove what is left.
"""

from __future__ import annotations

import mmap
import os
import sys
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import psutil

from ..errors import OutOfMemory

HAS_MEMFD = sys.platform == "linux" and hasattr(os, "memfd_create")
_ASKED_FROM_BYTES = 64 << 20


@dataclass
class Chunk:
    """A piece of memory of this process, perhaps shared with others."""

    buffer: Any
    """What numpy makes arrays over."""
    size_bytes: int
    descriptor: int | None = None
    """To hand over to another process, where the system does it so."""
    name: str = ""
    """To hand over to another process, where the system does it so."""
    _segment: SharedMemory | None = None
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = np.frombuffer(self.buffer, np.uint8).__array_interface__["data"][0]

    def reserve(self, offset: int, size_bytes: int) -> None:
        """Have the system set memory aside now: one that has none says so, where a later write would be fatal.

        Raises
        ------
        OutOfMemory
            Where there is none.
        """
        if self.descriptor is not None:
            try:
                os.posix_fallocate(self.descriptor, offset, size_bytes)
            except OSError as error:
                raise _none_left(size_bytes, error) from error

    def close(self) -> None:
        """Let go; the memory stays while arrays over it are alive."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self._segment is not None:
            self._segment.unlink()
            _forget(self._segment)
            self._segment = None


def private_chunk(size_bytes: int) -> Chunk:
    """Memory of this process only.

    Raises
    ------
    OutOfMemory
    """
    _refuse_too_much(size_bytes)
    try:
        return Chunk(mmap.mmap(-1, size_bytes), size_bytes)
    except (OSError, MemoryError, ValueError, OverflowError) as error:
        raise _none_left(size_bytes, error) from error


def shared_chunk(size_bytes: int) -> Chunk:
    """Memory that other processes can map with `map_chunk`.

    Raises
    ------
    OutOfMemory
    """
    _refuse_too_much(size_bytes)
    try:
        if not HAS_MEMFD:
            segment = SharedMemory(create=True, size=size_bytes)
            return Chunk(segment.buf, size_bytes, name=segment.name, _segment=segment)
        descriptor = os.memfd_create("trisect", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
            return Chunk(_mapped(descriptor, size_bytes), size_bytes, descriptor=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, MemoryError, ValueError, OverflowError) as error:
        raise _none_left(size_bytes, error) from error


def map_chunk(size_bytes: int, descriptor: int | None, name: str) -> Any:
    """What another process shared, as a buffer for numpy; the descriptor is closed.

    Raises
    ------
    OutOfMemory
        Where it cannot be mapped.
    """
    try:
        if descriptor is not None:
            try:
                return _mapped(descriptor, size_bytes)
            finally:
                os.close(descriptor)
        segment = SharedMemory(name=name)
        if sys.platform != "win32":  # whoever made it removes it; the tracker of this process would do so too early
            resource_tracker.unregister(f"/{segment.name}", "shared_memory")
        buffer = segment.buf
        _forget(segment)
        return buffer
    except (OSError, ValueError) as error:
        raise _none_left(size_bytes, error) from error


def _mapped(descriptor: int, size_bytes: int) -> mmap.mmap:
    """A mapping, without a descriptor of its own where Python can do without."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size_bytes, trackfd=False)
    return mmap.mmap(descriptor, size_bytes)


def _forget(segment: SharedMemory) -> None:
    """Leave the mapping to the arrays over it; on its own the segment would unmap it under them, and complain."""
    segment._mmap = None  # type: ignore[attr-defined]
    segment._buf = None  # type: ignore[attr-defined]
    segment.close()


def _refuse_too_much(size_bytes: int) -> None:
    """Large pieces are asked for: the system would rather kill a process than refuse it a page."""
    if size_bytes >= _ASKED_FROM_BYTES and size_bytes > psutil.virtual_memory().available:
        raise _none_left(size_bytes, None)


def _none_left(size_bytes: int, error: BaseException | None) -> OutOfMemory:
    why = f" ({getattr(error, 'strerror', None) or error})" if error is not None else ""
    return OutOfMemory(
        f"no memory for a tensor of {size_bytes / 1e6:,.1f} MB{why}", remedy="use a smaller window or smaller inputs"
    )
