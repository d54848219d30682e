"""Reads parts of a model's file, without a memory map: where the file is cut short, that ends the process (SIGBUS)."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trisect.runtime.errors import InvalidModel
from trisect.runtime.untrusted_files import open_regular

_SPREAD_MAX = 4
"""Rows in another order are read with all rows between the first and the last, if these are not many times as many."""


class RandomAccessFile:
    """A regular file, open until nothing refers to it any more.

    Raises
    ------
    OSError
        As `open_regular`.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        with open_regular(path) as file:
            descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.size_bytes = os.fstat(descriptor).st_size
        """When it was opened."""

    def read(self, begin: int, count: int) -> bytes:
        """Return so many bytes from a position.

        Raises
        ------
        InvalidModel
            If the file cannot be read, or has become shorter since it was opened.
        """
        pieces: list[bytes] = []
        left = count
        try:
            with self._lock:
                os.lseek(self._descriptor, begin, os.SEEK_SET)
                while left and (piece := os.read(self._descriptor, min(left, 1 << 30))):
                    pieces.append(piece)
                    left -= len(piece)
        except OSError as error:
            raise InvalidModel(f"cannot read {self.name}: {error.strerror}") from error
        if left:
            raise InvalidModel(f"{self.name} became shorter while it was read", remedy="download it again")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(frozen=True, eq=False)
class FileRows:
    """The bytes of a tensor's rows, in a file."""

    file: RandomAccessFile
    position: int
    shape: tuple[int, int]
    """Rows, and bytes of a row."""

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return some rows, a run or a list of them, uint8 [rows, bytes of a row]; read-only."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            row_bytes = self.shape[1]
            content = self.file.read(self.position + start * row_bytes, (stop - start) * row_bytes)
            return np.frombuffer(content, np.uint8).reshape(stop - start, row_bytes)
        if not len(rows):
            return np.empty((0, self.shape[1]), np.uint8)
        first, last = int(rows.min()), int(rows.max())
        if last - first < _SPREAD_MAX * len(rows):
            chosen: np.ndarray = self[first : last + 1][rows - first]
            return chosen
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        return np.concatenate([self[int(run[0]) : int(run[-1]) + 1] for run in np.split(rows, ends)])


@dataclass(frozen=True, eq=False)
class StackedRows:
    """The rows of several tensors of the same shape, one tensor after the other."""

    parts: Sequence[np.ndarray | FileRows]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of all tensors together, and bytes of a row."""
        rows, row_bytes = self.parts[0].shape
        return len(self.parts) * rows, row_bytes

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return some rows, as `FileRows` does."""
        chosen = np.arange(self.shape[0])[rows]
        part_rows = self.parts[0].shape[0]
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen // part_rows)) + 1)
        return np.concatenate([self.parts[int(run[0]) // part_rows][run % part_rows] for run in runs if len(run)])
