"""Write files so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import StorageFailed
from .files.output_paths import check_replaceable_file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside ``path`` and rename it; folders are created.

    Raises
    ------
    StorageFailed
        Disk full or no permission, or ``path`` is something other than a file; nothing half-written is left.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that gets the name ``path`` when the block succeeds, and is removed when it fails.

    A new file has the mode that the user's umask gives, another one keeps its mode.

    Raises
    ------
    StorageFailed
        As `write_atomically`.
    """
    check_replaceable_file(path)
    temporary = path.with_name(f".trisect-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            _keep_mode(path, file)
            yield file
        temporary.replace(path)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _keep_mode(path: Path, file: BinaryIO) -> None:
    with suppress(OSError, AttributeError):  # there is no earlier file; Windows has no fchmod
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
