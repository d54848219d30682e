"""Reads files of unknown origin: regular files only, of a limited size, with every fault as one sentence.

A FIFO or a device blocks for ever or never ends, and a small file may describe more than memory holds. Faults of the
file are `OSError`s, and faults of its content `MalformedFile`; the caller says in its own error what the file was for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from collections.abc import Callable
from io import BufferedReader
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
SETTINGS_LIMIT_BYTES = 16 << 20
"""For files that people write: constraints, policies, studies, configurations, templates."""
DATA_LIMIT_BYTES = 256 << 20
"""For files that programs write: plans, profiles, caches, tokenizers."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class MalformedFile(ValueError):
    """The content of a file is not what its kind of file has; the message is one sentence without the file's name."""


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading in binary; links to one are followed.

    Raises
    ------
    OSError
        When there is none, or it is a folder, pipe, socket or device; `strerror` says so in one sentence.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits until another process writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", repr(os.fspath(path))) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _irregular(path, "a socket") from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _irregular(path, _KINDS.get(stat.S_IFMT(mode), "not a regular file"))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that a file that another library opens by its name is a regular one.

    Raises
    ------
    OSError
        As `open_regular`.
    """
    open_regular(path).close()


def read_bytes(path: str | os.PathLike[str], limit_bytes: int = DATA_LIMIT_BYTES) -> bytes:
    """Return the content of a regular file of at most `limit_bytes`.

    Raises
    ------
    OSError
        As `open_regular`, and for a larger file.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= limit_bytes:
            # Files of /proc have size 0 and a content all the same.
            content = file.read(limit_bytes + 1)
            if len(content) <= limit_bytes:
                return content
    raise OSError(errno.EFBIG, f"it is too large: at most {_size(limit_bytes)} are expected", os.fspath(path))


def read_text(path: str | os.PathLike[str], limit_bytes: int = SETTINGS_LIMIT_BYTES) -> str:
    """Return the text of a regular file in UTF-8.

    Raises
    ------
    OSError
        As `read_bytes`.
    MalformedFile
        For a content that is not UTF-8.
    """
    content = read_bytes(path, limit_bytes)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFile(f"it is not UTF-8 text (byte {error.start})") from None


def read_toml(path: str | os.PathLike[str], limit_bytes: int = SETTINGS_LIMIT_BYTES) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    OSError
        As `read_bytes`.
    MalformedFile
        For invalid TOML, or tables nested too deeply.
    """
    text = read_text(path, limit_bytes)
    return _parsed(lambda: tomllib.loads(text), "TOML")


def read_json(path: str | os.PathLike[str], limit_bytes: int = DATA_LIMIT_BYTES) -> Any:
    """Return the content of a JSON file as plain values.

    Raises
    ------
    OSError
        As `read_bytes`.
    MalformedFile
        For invalid JSON, or values nested too deeply.
    """
    return parse_json(read_bytes(path, limit_bytes))


def parse_json(content: bytes | str) -> Any:
    """Return JSON as plain values, as Python's own parser reads it.

    Raises
    ------
    MalformedFile
        For invalid JSON, or values nested too deeply.

    Examples
    --------
    >>> parse_json(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    return _parsed(lambda: json.loads(content), "JSON")


def decode_json(content: bytes | str, kind: type[T]) -> T:
    """Return JSON as a value of a type that msgspec knows.

    Raises
    ------
    MalformedFile
        For invalid JSON, values nested too deeply, and values of another type.

    Examples
    --------
    >>> decode_json(b'[1, 2]', tuple[int, int])
    (1, 2)
    """
    return _parsed(lambda: msgspec.json.decode(content, type=kind), "JSON")


def _parsed(parse: Callable[[], T], form: str) -> T:
    try:
        return parse()
    except RecursionError:
        raise MalformedFile(f"its {form} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise MalformedFile(f"it is not UTF-8 text (byte {error.start})") from None
    except msgspec.ValidationError as error:
        raise MalformedFile(_sentence(error)) from None
    except (ValueError, msgspec.DecodeError) as error:  # tomllib, json and msgspec each have one of their own
        raise MalformedFile(f"invalid {form}: {_sentence(error)}") from None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _irregular(path: str | os.PathLike[str], kind: str) -> OSError:
    return OSError(errno.EINVAL, f"it is {kind}, expected a file", os.fspath(path))


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes} bytes"
