"""Write files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import StorageFailed
from .files.output_paths import check_replaceable_file
from .files.path_locks import lock_path


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

    A new file has the mode that the user's umask gives, another one keeps its mode. What a killed process left is
    removed when the same file is written again.

    Raises
    ------
    StorageFailed
        As `write_atomically`.
    """
    check_replaceable_file(path)
    temporary: Path | None = None
    lock: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, lock = _new_file(path)
        with temporary.open("wb") as file:
            _keep_mode(path, file)
            yield file
        temporary.replace(path)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if lock is not None:
            os.close(lock)


def _prefix(path: Path) -> str:
    # A hash, because a long name would become too long.
    return f".trisect-file-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}-"


def _new_file(path: Path) -> tuple[Path, int | None]:
    """Return a new file beside another one, and a lock on it that ends with this process."""
    while True:
        new = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}")
        with suppress(BlockingIOError, FileExistsError):
            new.touch(exist_ok=False)
            lock = lock_path(new)
            if new.exists():  # not taken for abandoned by another process, before it was locked
                return new, lock
            if lock is not None:
                os.close(lock)


def _remove_abandoned(path: Path) -> None:
    """Remove the new files of processes that were killed before these were complete."""
    name = re.compile(re.escape(_prefix(path)) + "[0-9a-f]{8}")
    for abandoned in filter(name.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):  # BlockingIOError, too: it is being written
            lock = lock_path(path.with_name(abandoned))
            if lock is not None:
                path.with_name(abandoned).unlink()
                os.close(lock)


def _keep_mode(path: Path, file: BinaryIO) -> None:
    with suppress(OSError, AttributeError):  # there is no earlier file; Windows has no fchmod
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
