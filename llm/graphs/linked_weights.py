"""Writes adapted graphs that share another tool's weight files: by hard links, not by copies.

Weights inside an ``.onnx`` file are written to a data file once, so that several graphs of one model share them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from trisect.runtime.errors import InvalidModel, one_line
from trisect.runtime.progress import Progress
from trisect.runtime.tensors.onnx_tensors import all_tensors

_EMBEDDED_FILE = "weights.bin"
_ALIGNMENT_BYTES = 4096  # what engines need to map a tensor from the file instead of copying it
_INLINE_BYTES = 4096
_CHUNK_BYTES = 1 << 24


class LinkedWeights:
    """The data files of a bundle that is being written.

    Parameters
    ----------
    folder : Path
        Empty folder for the bundle's files.
    progress : callable
        Called while files have to be copied.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._names: dict[Path, str] = {}
        self._spans: dict[bytes, tuple[int, int]] = {}
        self.size_bytes = 0
        """Total size of the weights in data files."""

    def save(self, model: ir.Model, name: str) -> None:
        """Write a graph into the folder, with links to the weights that it needs.

        Parameters
        ----------
        model : onnx_ir.Model
            Locations of external tensors are full, checked paths, as `load_model` returns them.
        name : str
            File name of the graph.

        Raises
        ------
        InvalidModel
            For a graph that cannot be written as ONNX: with unnamed values, say.
        OSError
            If the disk is full or not writable.
        """
        try:
            proto = ir.to_proto(model)
        except ir.serde.SerdeError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise InvalidModel(
                f"graph {model.graph.name!r} cannot be written as ONNX: {one_line(cause)}",
                remedy="export the model again",
            ) from error
        proto.producer_name = "trisect"
        for tensor in all_tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                _set_external(
                    tensor, self._link(Path(entries["location"])), int(entries["offset"]), int(entries["length"])
                )
        for tensor in proto.graph.initializer:  # engines expect tensors of node attributes inside the graph
            if len(tensor.raw_data) >= _INLINE_BYTES:
                _set_external(tensor, _EMBEDDED_FILE, *self._embed(tensor.raw_data))
                tensor.ClearField("raw_data")
        (self._folder / name).write_bytes(proto.SerializeToString(deterministic=True))

    def _link(self, file: Path) -> str:
        if file not in self._names:
            # Generated names: the original one could collide with another file of the bundle.
            name = f"data_{len(self._names)}.bin"
            try:
                os.link(file, self._folder / name)
            except OSError:  # another file system, or one without hard links
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
        """Return offset and length of some bytes in the file of embedded weights, which holds equal ones once."""
        key = hashlib.sha256(content).digest()
        if key not in self._spans:
            with (self._folder / _EMBEDDED_FILE).open("ab") as file:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
                self._spans[key] = file.tell(), len(content)
                file.write(content)
            self.size_bytes += len(content)
        return self._spans[key]


def _set_external(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor refer to a part of an external file."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
