"""Maps the tensors of safetensors files, without loading them: a header of JSON, then the tensors one after another.

The files are untrusted: the header's size and every position are checked against the file. The format is defined at
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel
from trisect.runtime.untrusted_files import MalformedFile, open_regular, parse_json

from ..gguf.gguf_reader import GgufTensor
from .folder_config import weight_files

_TYPES = {"F32": ("F32", 4), "F16": ("F16", 2), "BF16": ("BF16", 2)}
"""Type in the file -> type of a GGUF tensor of the same layout, and bytes of an element."""
_MAX_HEADER_BYTES = 64 << 20
_MAX_DIMENSION, _MAX_DIMENSIONS = 1 << 31, 4
_MAX_NAME_LENGTH = 200
_LENGTH_BYTES = 8


def map_tensors(folder: Path) -> dict[str, GgufTensor]:
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
        for tensor in sorted(_tensors(path), key=lambda tensor: tensor.position):
            if tensor.position < end_of_last:
                raise _invalid(path, f"tensor {tensor.name} overlaps another")
            end_of_last = tensor.position + tensor.data.size
            if tensor.name in tensors:
                raise InvalidModel(f"{path} repeats the tensor {tensor.name}", remedy="remove one of the files")
            tensors[tensor.name] = tensor
    return tensors


def _tensors(path: Path) -> Iterator[GgufTensor]:
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            if size < _LENGTH_BYTES:
                raise _invalid(path, "it is truncated")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InvalidModel(f"cannot read {path}: {error.strerror}") from error
    length = int.from_bytes(mapping[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > _MAX_HEADER_BYTES or start > size:
        raise _invalid(path, f"a header of {length} bytes in a file of {size}")
    try:
        header = parse_json(mapping[_LENGTH_BYTES:start].decode())
    except (MalformedFile, UnicodeDecodeError) as error:
        raise _invalid(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _invalid(path, "its header is no JSON object")
    for name, entry in header.items():
        if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise _invalid(path, "the name of a tensor is too long, or has control characters")
        if name != "__metadata__":
            yield _tensor(path, name, entry, mapping, start)


def _tensor(path: Path, name: str, entry: Any, mapping: mmap.mmap, start: int) -> GgufTensor:
    dtype, shape, offsets = (
        (entry.get(key) for key in ("dtype", "shape", "data_offsets")) if isinstance(entry, dict) else (None,) * 3
    )
    if not isinstance(dtype, str) or dtype not in _TYPES:
        kind = f"{dtype!r}"[:40]
        raise UnsupportedModel(
            f"{path.name}: tensor {name} has the type {kind}", remedy=f"supported are {', '.join(_TYPES)}"
        )
    sizes, positions = _numbers(shape, _MAX_DIMENSION), _numbers(offsets, 1 << 62)
    if not sizes or len(positions) != 2:
        raise _invalid(path, f"tensor {name} has an invalid shape or position")
    kind, element_bytes = _TYPES[dtype]
    begin, end = start + positions[0], start + positions[1]
    if not begin <= end <= len(mapping) or end - begin != math.prod(sizes) * element_bytes or begin == end:
        raise _invalid(path, f"tensor {name} lies outside the file, or is not as large as its shape")
    rows = np.frombuffer(mapping, np.uint8, end - begin, begin).reshape(-1, sizes[-1] * element_bytes)
    return GgufTensor(name, tuple(sizes), kind, rows, mapping, begin)


def _numbers(values: Any, maximum: int) -> list[int]:
    """Return a list of a few whole numbers below a maximum; an empty one for anything else."""
    if not isinstance(values, list) or len(values) > _MAX_DIMENSIONS:
        return []
    are_sound = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < maximum for v in values)
    return values if are_sound else []


def _invalid(path: Path, what: str) -> InvalidModel:
    return InvalidModel(f"{path} is not a valid safetensors file: {what}", remedy="download it again")
