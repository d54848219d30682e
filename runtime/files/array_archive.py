"""Reads arrays from ``.npz`` files of unknown origin: nothing is unpickled, and no size in them is believed.

A header may claim any shape, and a member of some kilobytes may inflate to gigabytes. Both are compared with each other
and with the free memory before an array is allocated, and no more is read than the header says.
"""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import InvalidInput
from ..free_memory import check_free
from ..untrusted_files import open_regular

_MEMBERS_MAX = 10_000
_RANK_MAX = 64
_SUFFIX = ".npy"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file, by name.

    Raises
    ------
    InvalidInput
        When it is missing, no regular file, damaged, encrypted, or contains anything but plain arrays.
    OutOfMemory
        When the arrays do not fit into the free memory.
    """
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                raise InvalidInput(f"{path} is not an .npz file", remedy="write one with numpy.savez(file, name=array)")
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > _MEMBERS_MAX:
                    raise InvalidInput(f"{path} holds {len(members)} arrays, more than {_MEMBERS_MAX}")
                size_bytes = sum(member.file_size for member in members)
                check_free(size_bytes, f"the arrays in {path}", "use smaller ones")
                return {member.filename.removesuffix(_SUFFIX): _read(archive, member, path) for member in members}
    except OSError as error:
        raise InvalidInput(f"cannot read arrays from {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        # RuntimeError: encrypted; NotImplementedError: an unknown compression
        raise InvalidInput(f"cannot read arrays from {path}: {' '.join(str(error).split())[:300]}") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    where = f"{path}: array {member.filename.removesuffix(_SUFFIX)[:200]!r}"
    with archive.open(member) as stream:
        shape, fortran_order, dtype = _header(stream, where)
        if dtype.hasobject:
            raise InvalidInput(f"{where} is a pickled object, which is not read", remedy="write plain arrays")
        count = prod(shape)
        size_bytes = count * dtype.itemsize
        if not dtype.itemsize or any(dim < 0 for dim in shape) or len(shape) > _RANK_MAX:
            raise InvalidInput(f"{where} has an impossible shape or dtype")
        if size_bytes > member.file_size:
            raise InvalidInput(f"{where} needs {size_bytes} bytes for its shape, and has {member.file_size} at most")
        array = np.empty(count, dtype)
        buffer = memoryview(array.view(np.uint8).data) if count else memoryview(b"")
        filled = 0
        while filled < size_bytes:
            read = stream.readinto(buffer[filled:])  # type: ignore[attr-defined]  # of io.BufferedIOBase
            if not read:
                raise InvalidInput(f"{where} ends after {filled} of {size_bytes} bytes", remedy="write it again")
            filled += read
        if stream.read(1):
            raise InvalidInput(f"{where} has more bytes than its shape needs", remedy="write it again")
    return array.reshape(shape[::-1]).transpose() if fortran_order else array.reshape(shape)


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and dtype of an array in numpy's format."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except Exception as error:  # the header is a literal of Python, and its parsers raise errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(f"{where} is no array in numpy's format: {reason}", remedy="write it with numpy") from error
