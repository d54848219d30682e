"""Chunks of memory that two processes can map: how each system creates, passes and frees them.

On Linux a chunk is an anonymous file (`os.memfd_create`), passed as a file descriptor: it is freed with the last
process that maps it, however that ends, and it does not count against ``/dev/shm``, which is small in containers.
Elsewhere it is `multiprocessing.shared_memory`, passed by name; Python's resource tracker removes what is left.
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
_CHECKED_BYTES_MIN = 64 << 20


@dataclass
class MemoryChunk:
    """A block of memory of this process, perhaps shared with others."""

    buffer: Any
    """For `numpy.ndarray`."""
    size_bytes: int
    descriptor: int | None = None
    """To pass to another process, on Linux."""
    name: str = ""
    """To pass to another process, on other systems."""
    _segment: SharedMemory | None = None
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = np.frombuffer(self.buffer, np.uint8).__array_interface__["data"][0]

    def reserve(self, offset: int, size_bytes: int) -> None:
        """Make the system commit memory now: later, a write to memory that it does not have would end the process.

        Raises
        ------
        OutOfMemory
            Where there is not enough.
        """
        if self.descriptor is not None:
            try:
                os.posix_fallocate(self.descriptor, offset, size_bytes)
            except OSError as error:
                raise _out_of_memory(size_bytes, error) from error

    def close(self) -> None:
        """Release the chunk; the memory stays as long as arrays in it are alive."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self._segment is not None:
            self._segment.unlink()
            _detach(self._segment)
            self._segment = None


def private_chunk(size_bytes: int) -> MemoryChunk:
    """Return memory of this process only.

    Raises
    ------
    OutOfMemory
    """
    _check_available(size_bytes)
    try:
        return MemoryChunk(mmap.mmap(-1, size_bytes), size_bytes)
    except (OSError, MemoryError, ValueError, OverflowError) as error:
        raise _out_of_memory(size_bytes, error) from error


def shared_chunk(size_bytes: int) -> MemoryChunk:
    """Return memory that other processes can map with `map_chunk`.

    Raises
    ------
    OutOfMemory
    """
    _check_available(size_bytes)
    try:
        if not HAS_MEMFD:
            segment = SharedMemory(create=True, size=size_bytes)
            return MemoryChunk(segment.buf, size_bytes, name=segment.name, _segment=segment)
        descriptor = os.memfd_create("trisect", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
            return MemoryChunk(_mapped(descriptor, size_bytes), size_bytes, descriptor=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, MemoryError, ValueError, OverflowError) as error:
        raise _out_of_memory(size_bytes, error) from error


def map_chunk(size_bytes: int, descriptor: int | None, name: str) -> Any:
    """Return the memory that another process shared, as a buffer for numpy; closes the descriptor.

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
        if sys.platform != "win32":  # its creator removes it; this process's tracker would do so too early
            resource_tracker.unregister(f"/{segment.name}", "shared_memory")
        buffer = segment.buf
        _detach(segment)
        return buffer
    except (OSError, ValueError) as error:
        raise _out_of_memory(size_bytes, error) from error


def _mapped(descriptor: int, size_bytes: int) -> mmap.mmap:
    """Return a mapping, without a duplicate of the descriptor where Python supports that."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size_bytes, trackfd=False)
    return mmap.mmap(descriptor, size_bytes)


def _detach(segment: SharedMemory) -> None:
    """Leave the mapping to the arrays in it; the segment would unmap it while they are alive."""
    segment._mmap = None  # type: ignore[attr-defined]
    segment._buf = None  # type: ignore[attr-defined]
    segment.close()


def _check_available(size_bytes: int) -> None:
    """Refuse large chunks that do not fit: Linux kills a process rather than refuse it a page."""
    if size_bytes >= _CHECKED_BYTES_MIN and size_bytes > psutil.virtual_memory().available:
        raise _out_of_memory(size_bytes, None)


def _out_of_memory(size_bytes: int, error: BaseException | None) -> OutOfMemory:
    reason = f" ({getattr(error, 'strerror', None) or error})" if error is not None else ""
    return OutOfMemory(
        f"no memory for a tensor of {size_bytes / 1e6:,.1f} MB{reason}", remedy="use a smaller window or smaller inputs"
    )
