"""Reading of versioned JSON files that may be missing, damaged, or of another version."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from trisect.runtime.errors import InvalidProfile
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

T = TypeVar("T")
REMEDY = "move it away and run `trisect profile`"


class SchemaHeader(msgspec.Struct):
    """The part of a file that every version has."""

    schema: int


def read_versioned(
    path: Path, kind: type[T], *, schema: int, oldest: int, max_bytes: int, remedy: str = REMEDY
) -> T | None:
    """Return the content of a file; None where its version is below ``oldest``.

    Raises
    ------
    InvalidProfile
        For a file that is missing, too large, malformed, or of a newer version than ``schema``.
    """
    try:
        content = read_bytes(path, max_bytes)
    except OSError as error:
        raise InvalidProfile(f"{path} cannot be read: {error.strerror or error}", remedy=remedy) from error
    try:
        version = decode_json(content, SchemaHeader).schema
        if version > schema:
            raise InvalidProfile(
                f"{path} has version {version}, newer than this trisect reads ({schema})", remedy="update trisect"
            )
        return None if version < oldest else decode_json(content, kind)
    except MalformedFile as error:
        raise InvalidProfile(f"{path} is malformed: {error}", remedy=remedy) from error


def invalid_figure(path: Path, figure: str) -> InvalidProfile:
    """Return the error for a file that holds an impossible figure."""
    return InvalidProfile(f"{path} holds an impossible figure: {figure}", remedy=REMEDY)
