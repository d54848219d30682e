"""Writes edited graphs whose weights stay where another tool put them: by a link to its files, not by a copy.

Weights that lie inside an ``.onnx`` file are written out once, so that several graphs of one model share them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from trisect.runtime.progress import Progress
from trisect.runtime.tensors.onnx_tensors import all_tensors

_EMBEDDED_FILE = "weights.bin"
_ALIGNMENT_BYTES = 4096  # what engines need to map a tensor from the file instead of copying it
_INLINE_BYTES = 4096
_CHUNK_BYTES = 1 << 24


class LinkedWeights:
    """The data files of a bundle that is being made.

    Parameters
    ----------
    folder : Path
        Where the bundle's files go; empty.
    progress : callable
        Called with the steps done, all steps, and what is being done, where files have to be copied.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._names: dict[Path, str] = {}
        self._spans: dict[bytes, tuple[int, int]] = {}
        self.size_bytes = 0
        """Of all weights kept in data files."""

    def save(self, model: ir.Model, name: str) -> None:
        """Write a graph into the folder, and what it needs of weights beside it.

        Parameters
        ----------
        model : onnx_ir.Model
            Locations of external tensors are full paths that were checked, as `load_model` leaves them.
        name : str
            Of the file.

        Raises
        ------
        OSError
            Where the disk is full or forbids it.
        """
        proto = ir.to_proto(model)
        proto.producer_name = "trisect"
        for tensor in all_tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                _point(tensor, self._link(Path(entries["location"])), int(entries["offset"]), int(entries["length"]))
        for tensor in proto.graph.initializer:  # of a node's attribute engines expect the content in the graph
            if len(tensor.raw_data) >= _INLINE_BYTES:
                _point(tensor, _EMBEDDED_FILE, *self._embed(tensor.raw_data))
                tensor.ClearField("raw_data")
        (self._folder / name).write_bytes(proto.SerializeToString(deterministic=True))

    def _link(self, file: Path) -> str:
        if file not in self._names:
            # Names of our own: a stranger's could be that of another of the bundle's files.
            name = f"data_{len(self._names)}.bin"
            try:
                os.link(file, self._folder / name)
            except OSError:  # another disk, or one without links
                self._copy(file, self._folder / name)
            self._names[file] = name
            self.size_bytes += file.stat().st_size
        return self._names[file]

    def _copy(self, file: Path, target: Path) -> None:
        size, done = file.stat().st_size, 0
        with file.open("rb") as source, target.open("wb") as output:
            while chunk := source.read(_CHUNK_BYTES):
                output.write(chunk)
                done += len(chunk)
                self._progress(done, size, f"copying {file.name}")

    def _embed(self, content: bytes) -> tuple[int, int]:
        """Offset and length of some bytes in the file of embedded weights; equal ones are there once."""
        key = hashlib.sha256(content).digest()
        if key not in self._spans:
            with (self._folder / _EMBEDDED_FILE).open("ab") as file:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
                self._spans[key] = file.tell(), len(content)
                file.write(content)
            self.size_bytes += len(content)
        return self._spans[key]


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor external."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
