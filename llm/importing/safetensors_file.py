"""Locates the tensors of safetensors files, without loading them: a header of JSON, then the tensors one after another.

The files are untrusted: the header's size and every position are checked against the file. The format is defined at
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trisect.runtime.errors import InvalidModel, UnsupportedModel
from trisect.runtime.untrusted_files import MalformedFile, decode_json

from ..gguf.file_rows import FileRows, RandomAccessFile
from ..gguf.gguf_reader import GgufTensor
from .folder_config import weight_files

_TYPES = {"F32": ("F32", 4), "F16": ("F16", 2), "BF16": ("BF16", 2)}
"""Type in the file -> type of a GGUF tensor of the same layout, and bytes of an element."""
_MAX_HEADER_BYTES = 16 << 20
_MAX_COLONS = 1 << 19
"""Of the header; a tensor has four. The largest files of models have some 20,000 tensors and 3 MB of header, and what a
header makes of objects is limited to some 100 MB."""
_MAX_DIMENSION, _MAX_DIMENSIONS = 1 << 31, 4
_MAX_NAME_LENGTH = 200
_LENGTH_BYTES = 8


def locate_tensors(folder: Path) -> dict[str, GgufTensor]:
    """Return the tensors of all safetensors files of a folder by name.

    Raises
    ------
    InvalidModel
        If a file is truncated or inconsistent, or a tensor appears twice.
    UnsupportedModel
        If a tensor is not of a floating-point type of 16 or 32 bits.
    """
    tensors: dict[str, GgufTensor] = {}
    for name in weight_files(path.name for path in folder.iterdir() if path.is_file()):
        path = folder / name
        end_of_last = 0
        for position, tensor in sorted(_tensors(path), key=lambda located: located[0]):
            if position < end_of_last:
                raise _invalid(path, f"tensor {tensor.name} overlaps another")
            end_of_last = position + tensor.data.size
            if tensor.name in tensors:
                raise InvalidModel(f"{path} repeats the tensor {tensor.name}", remedy="remove one of the files")
            tensors[tensor.name] = tensor
    return tensors


class _Entry(msgspec.Struct):
    """A tensor's entry of the header; whatever else it has makes no objects."""

    dtype: Any = None
    shape: list[int] = []
    data_offsets: list[int] = []


def _tensors(path: Path) -> Iterator[tuple[int, GgufTensor]]:
    """Yield tensors with their positions in the file."""
    try:
        file = RandomAccessFile(path)
    except OSError as error:
        raise InvalidModel(f"cannot read {path}: {error.strerror}") from error
    if file.size_bytes < _LENGTH_BYTES:
        raise _invalid(path, "it is truncated")
    length = int.from_bytes(file.read(0, _LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if length > _MAX_HEADER_BYTES or start > file.size_bytes:
        raise _invalid(path, f"a header of {length} bytes in a file of {file.size_bytes}")
    content = file.read(_LENGTH_BYTES, length)
    if (colons := content.count(b":")) > _MAX_COLONS:
        raise _invalid(path, f"a header of {colons} entries")
    try:
        header = decode_json(content, dict[str, msgspec.Raw])
    except MalformedFile as error:
        raise _invalid(path, f"its header is not as expected: {error}") from error
    for name, entry in header.items():
        if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise _invalid(path, "the name of a tensor is too long, or has control characters")
        if name != "__metadata__":
            try:
                yield _tensor(path, name, decode_json(entry, _Entry), file, start)
            except MalformedFile as error:
                raise _invalid(path, f"tensor {name}: {error}") from error


def _tensor(path: Path, name: str, entry: _Entry, file: RandomAccessFile, start: int) -> tuple[int, GgufTensor]:
    dtype = entry.dtype
    if not isinstance(dtype, str) or dtype not in _TYPES:
        kind = f"{dtype!r}"[:40]
        raise UnsupportedModel(
            f"{path.name}: tensor {name} has the type {kind}", remedy=f"supported are {', '.join(_TYPES)}"
        )
    sizes, positions = _numbers(entry.shape, _MAX_DIMENSION), _numbers(entry.data_offsets, 1 << 62)
    if not sizes or len(positions) != 2:
        raise _invalid(path, f"tensor {name} has an invalid shape or position")
    kind, element_bytes = _TYPES[dtype]
    begin, end = start + positions[0], start + positions[1]
    if not begin <= end <= file.size_bytes or end - begin != math.prod(sizes) * element_bytes or begin == end:
        raise _invalid(path, f"tensor {name} lies outside the file, or is not as large as its shape")
    rows = FileRows(file, begin, (math.prod(sizes[:-1]), sizes[-1] * element_bytes))
    return begin, GgufTensor(name, tuple(sizes), kind, rows)


def _numbers(values: list[int], maximum: int) -> list[int]:
    """Return a list of a few whole numbers below a maximum; an empty one for any others."""
    return values if len(values) <= _MAX_DIMENSIONS and all(0 <= v < maximum for v in values) else []


def _invalid(path: Path, what: str) -> InvalidModel:
    return InvalidModel(f"{path} is not a valid safetensors file: {what}", remedy="download it again")
