"""Reads a GGUF file: its metadata, and the positions of its tensors, without loading them.

A GGUF file is untrusted input: all counts, lengths and offsets are checked against the size of the file before anything
is allocated, and the size of the metadata is limited. Tensors stay in the file, and are read row by row.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel

from .block_types import BLOCK_BYTES
from .file_rows import FileRows, RandomAccessFile, StackedRows

_ANY_BLOCK_BYTES: Mapping[str, tuple[int, int]] = {
    **BLOCK_BYTES,
    "Q8_1": (32, 36), "Q8_K": (256, 292), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ3_XXS": (256, 98),
    "IQ1_S": (256, 50), "IQ3_S": (256, 110), "IQ2_S": (256, 82), "IQ1_M": (256, 56), "TQ1_0": (256, 54),
    "TQ2_0": (256, 66), "NVFP4": (64, 36), "Q1_0": (128, 18),
    "I8": (1, 1), "I16": (1, 2), "I32": (1, 4), "I64": (1, 8), "F64": (1, 8),
}  # fmt: skip
"""As `BLOCK_BYTES`, with unsupported types of known size (ggml-common.h of llama.cpp)."""
_MAX_ELEMENTS = 1 << 48
_TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_HEADER_BYTES = 24
_MAX_METADATA_BYTES = 256 << 20
_MAX_ENTRIES, _MAX_TENSORS, _MAX_STRINGS = 1 << 16, 1 << 17, 1 << 22
"""Several times what files have (a vocabulary of 262,144 tokens and 514,906 merges): each takes 100 bytes of memory."""
_WINDOW_BYTES = 1 << 20
_MAX_NAME_BYTES = 64 << 10
_MAX_DIMENSIONS = 4

Value = str | int | float | bool | list[str] | np.ndarray
"""A metadata value; arrays of numbers are numpy arrays, arrays of strings are lists."""


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first, as in numpy: a weight is [rows (outputs), columns (inputs)]."""
    type: str
    """A key of `BLOCK_BYTES`."""
    data: np.ndarray | FileRows | StackedRows
    """uint8 [rows, bytes of a row], in memory or in the file."""

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """The last dimension, along which blocks lie."""
        return self.shape[-1]


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A GGUF file's metadata and tensors."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def open(cls, path: str | Path) -> GgufFile:
        """Read and check the header, and locate the tensors.

        Raises
        ------
        InvalidModel
            If the file is missing, truncated or inconsistent.
        UnsupportedModel
            If it is valid but split, big-endian, of another version, or holds a tensor of an unsupported type.
        """
        path = Path(path)
        cursor, tensor_count, metadata = _open(path)
        if _number(metadata.get("split.count", 0)) > 1:
            raise UnsupportedModel(
                f"{path.name} is one of {metadata['split.count']} parts", remedy="join them: llama-gguf-split --merge"
            )
        return cls(path, metadata, _read_tensors(cursor, tensor_count, metadata))


@dataclass(frozen=True, eq=False)
class GgufHeader:
    """Metadata and tensor sizes of a GGUF file: enough to assess a model before the rest is downloaded."""

    metadata: Mapping[str, Value]
    types: Mapping[str, int]
    """Tensor type -> total bytes of its tensors; 0 for a type of unknown size."""
    parameters: int
    layout: GgufFile
    """Metadata and tensors of its layers, without their data."""

    @classmethod
    def read(cls, path: str | Path) -> GgufHeader:
        """Read the header; the data after it may be missing, and of any type.

        Raises
        ------
        InvalidModel, UnsupportedModel
            As for `GgufFile.open`.
        """
        cursor, tensor_count, metadata = _open(Path(path))
        cursor.need(tensor_count, 32, "tensors", _MAX_TENSORS)
        types: dict[str, int] = {}
        tensors: dict[str, GgufTensor] = {}
        parameters = 0
        for _ in range(tensor_count):
            name, shape, type_id, _ = _read_tensor_info(cursor)
            elements, block_bytes = _ANY_BLOCK_BYTES.get(
                type_name := _TYPE_NAMES.get(type_id, f"type {type_id}"), (1, 0)
            )
            count = math.prod(shape)
            if count > _MAX_ELEMENTS:
                raise _invalid(cursor.path, f"tensor {name} has {count} elements")
            types[type_name] = types.get(type_name, 0) + count // elements * block_bytes
            parameters += count
            if name.startswith("blk."):
                tensors[name] = GgufTensor(name, shape, type_name, np.empty((0, 0), np.uint8))
        return cls(metadata, types, parameters, GgufFile(cursor.path, metadata, tensors))


def _open(path: Path) -> tuple[_Cursor, int, dict[str, Value]]:
    """Return a cursor after the metadata, the number of tensors that follow, and the metadata."""
    try:
        file = RandomAccessFile(path)
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from error
    if file.size_bytes < _HEADER_BYTES:
        raise _invalid(path, "it is shorter than any GGUF header")
    cursor = _Cursor(path, file)
    if cursor.take(4) != b"GGUF":
        raise _invalid(path, "it does not start with GGUF")
    version = cursor.scalar("<I")
    if version not in (2, 3):
        order = "is big-endian" if version and not version & 0xFFFF else f"has GGUF version {version}"
        raise UnsupportedModel(f"{path.name} {order}", remedy="convert it to a little-endian GGUF of version 3")
    tensor_count, metadata_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    return cursor, tensor_count, _read_metadata(cursor, metadata_count)


class _Cursor:
    """A bounds-checked read position in the header."""

    def __init__(self, path: Path, file: RandomAccessFile) -> None:
        self.path = path
        self.file = file
        self.position = 0
        self._window = b""
        self._window_begin = 0
        self._end = min(file.size_bytes, _MAX_METADATA_BYTES)

    def need(self, count: int, smallest_bytes: int, what: str, maximum: int | None = None) -> None:
        """Reject a count of items that cannot fit into the remaining header, or is larger than any model's."""
        if count * smallest_bytes > self._end - self.position:
            size = self.file.size_bytes
            raise _invalid(self.path, f"{count} {what} do not fit into the header of a file of {size} bytes")
        if maximum is not None and count > maximum:
            raise _invalid(self.path, f"{count} {what}, expected at most {maximum}")

    def take(self, count: int, what: str = "bytes") -> bytes:
        self.need(count if what == "bytes" else 1, 1 if what == "bytes" else count, what)
        if self.position + count > self._window_begin + len(self._window):
            length = min(max(count, _WINDOW_BYTES), self.file.size_bytes - self.position)
            self._window, self._window_begin = self.file.read(self.position, length), self.position
        start, self.position = self.position - self._window_begin, self.position + count
        return self._window[start : start + count]

    def scalar(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout), "more number"))[0]

    def text(self, max_bytes: int | None = None) -> str:
        length = self.scalar("<Q")
        if max_bytes is not None and length > max_bytes:
            raise _invalid(self.path, f"a name of {length} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid(self.path, f"text that is not UTF-8 before byte {self.position}") from error


def _invalid(path: Path, reason: str) -> InvalidModel:
    return InvalidModel(f"{path.name or path} is not a valid GGUF file: {reason}", remedy="download it again")


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    cursor.need(count, 13, "metadata entries", _MAX_ENTRIES)
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text(_MAX_NAME_BYTES)
        if key in metadata:
            raise _invalid(cursor.path, f"metadata {key!r} appears twice")
        metadata[key] = _read_value(cursor, cursor.scalar("<I"), key)
    return metadata


def _read_value(cursor: _Cursor, kind: int, key: str) -> Value:
    if kind == _STRING:
        return cursor.text()
    if kind in _SCALARS:
        value: Value = cursor.scalar(_SCALARS[kind])
        return value
    if kind != _ARRAY:
        raise _invalid(cursor.path, f"metadata {key!r} has the unknown type {kind}")
    kind, count = cursor.scalar("<I"), cursor.scalar("<Q")
    if kind == _STRING:
        cursor.need(count, 8, "strings", _MAX_STRINGS)
        return [cursor.text() for _ in range(count)]
    if kind in _SCALARS:
        dtype = np.dtype(_SCALARS[kind])
        cursor.need(count, dtype.itemsize, "numbers")
        return np.frombuffer(cursor.take(count * dtype.itemsize), dtype)
    raise _invalid(cursor.path, f"metadata {key!r} is an array of the unknown type {kind}")


def _read_tensors(cursor: _Cursor, count: int, metadata: Mapping[str, Value]) -> dict[str, GgufTensor]:
    path = cursor.path
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise _invalid(path, f"alignment {alignment}")
    cursor.need(count, 32, "tensors", _MAX_TENSORS)
    entries = [_read_tensor_entry(cursor, alignment) for _ in range(count)]
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end_of_last = start
    for offset, size, name, shape, type_name in sorted(entries):
        begin = start + offset
        if begin + size > cursor.file.size_bytes:
            raise _invalid(path, f"tensor {name} ends at byte {begin + size} of {cursor.file.size_bytes}: truncated")
        if begin < end_of_last:
            raise _invalid(path, f"tensor {name} overlaps another")
        if name in tensors:
            raise _invalid(path, f"tensor {name} appears twice")
        end_of_last = begin + size
        rows = math.prod(shape[:-1])
        tensors[name] = GgufTensor(name, shape, type_name, FileRows(cursor.file, begin, (rows, size // rows)))
    return tensors


def _read_tensor_entry(cursor: _Cursor, alignment: int) -> tuple[int, int, str, tuple[int, ...], str]:
    """Return offset, bytes, name, shape and type of the next tensor."""
    path = cursor.path
    name, shape, type_id, offset = _read_tensor_info(cursor)
    type_name = _TYPE_NAMES.get(type_id)
    if type_name is None or type_name not in BLOCK_BYTES:
        raise UnsupportedModel(
            f"{path.name}: tensor {name} is {type_name or f'of unknown type {type_id}'}",
            remedy=f"use a file with only {', '.join(BLOCK_BYTES)}",
        )
    elements, block_bytes = BLOCK_BYTES[type_name]
    if min(shape) < 1 or shape[-1] % elements:
        raise _invalid(path, f"tensor {name} of type {type_name} has shape {list(shape)}")
    size = math.prod(shape) // elements * block_bytes
    if offset % alignment:
        raise _invalid(path, f"tensor {name} is not aligned")
    return offset, size, name, shape, type_name


def _read_tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape, type number and offset of the next tensor, unchecked."""
    name = cursor.text(_MAX_NAME_BYTES)
    dimensions = cursor.scalar("<I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _invalid(cursor.path, f"tensor {name} has {dimensions} dimensions")
    # The file lists the innermost dimension first.
    shape = tuple(cursor.scalar("<Q") for _ in range(dimensions))[::-1]
    return name, shape, cursor.scalar("<I"), cursor.scalar("<Q")
