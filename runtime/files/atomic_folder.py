"""Writes a folder completely or not at all, in place of an earlier one of the same kind.

Only files that the earlier folder's own description lists, and that are unchanged, are ever removed: a folder with
anything else in it is refused, before any work and again when the new folder is complete. What a killed process left is
removed when the same folder is written again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageFailed
from ..untrusted_files import open_regular
from .output_paths import check_output_folder, is_inside, unwritable
from .path_locks import lock_path

log = logging.getLogger(__name__)

_REMEDY = "name a new folder"
_Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that may be replaced."""

    noun: str
    """For messages: ``a plan``."""
    listed: Callable[[Path], Mapping[str, str | None] | None]
    """File name -> SHA-256 (None = not recorded) of all files that a folder's description lists, the description
    included; None for a folder without a description of this kind."""


def check_folder(folder: Path, kind: FolderKind, inputs: Iterable[Path] = ()) -> None:
    """Check that a folder can be written without destroying anything but an earlier folder of the same kind.

    Parameters
    ----------
    inputs : iterable of Path
        Files that are read to write it.

    Raises
    ------
    StorageFailed
        When it contains anything else, or an input, or cannot be written.
    """
    if check_output_folder(folder):
        _owned(folder, kind)
        for path in inputs:
            if is_inside(path, folder):
                raise StorageFailed(f"{folder} contains {path}, which this command reads", remedy=_REMEDY)


def remove_folder(folder: Path, kind: FolderKind) -> None:
    """Remove a folder of a kind, unless it contains anything else.

    Raises
    ------
    StorageFailed
        As `check_folder`.
    """
    files = _owned(folder, kind)
    try:
        _remove_files(folder, files)
    except OSError as error:
        raise unwritable(folder, error) from error


@contextmanager
def atomic_folder(folder: Path, kind: FolderKind) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` when the block succeeds, and is removed when it fails.

    Raises
    ------
    StorageFailed
        As `check_folder`, also when a file appeared or changed in the meantime; `folder` is left as it is then.
    """
    folder = Path(os.path.abspath(folder))
    check_folder(folder, kind)
    temporary: Path | None = None
    lock: int | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        temporary, lock = _new_folder(folder)
        yield temporary
        if check_output_folder(folder):
            _replace(folder, temporary, kind)
        else:
            with suppress(FileNotFoundError):
                folder.rmdir()
            temporary.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _owned(folder: Path, kind: FolderKind) -> dict[str, _Signature]:
    """Return the files of a folder, all of which its description lists.

    Raises
    ------
    StorageFailed
        When there is anything else, or a file has changed.
    """
    try:
        listed = kind.listed(folder)
        if listed is None:
            raise StorageFailed(f"{folder} contains something other than {kind.noun}", remedy=_REMEDY)
        files = _files(folder)
        for name in files:
            if name not in listed:
                raise StorageFailed(
                    f"{folder} contains {name!r}, which is not part of {kind.noun}", remedy=f"move it, or {_REMEDY}"
                )
            sha256 = listed[name]
            if sha256 is not None:
                with open_regular(folder / name) as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise StorageFailed(
                            f"{folder / name} has changed since it was written", remedy=f"move it, or {_REMEDY}"
                        )
        return files
    except OSError as error:
        raise unwritable(folder, error) from error


def _files(folder: Path) -> dict[str, _Signature]:
    """Return what changes with each file of a folder; anything but a regular file is refused."""
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            about = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(about.st_mode):
                raise StorageFailed(f"{folder} contains {entry.name!r}, which is not a file", remedy=_REMEDY)
            files[entry.name] = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode)
    return files


def _replace(folder: Path, new: Path, kind: FolderKind) -> None:
    """Put a new folder in the place of an earlier one, and remove the files of that."""
    owned = _owned(folder, kind)
    old = folder.with_name(f"{_prefix(folder, 'old')}{secrets.token_hex(4)}")
    folder.rename(old)
    try:
        if _files(old) != owned:
            raise StorageFailed(f"{folder} has changed in the meantime", remedy=_REMEDY)
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    try:
        _remove_files(old, owned)
    except OSError as error:
        log.warning("the files of the earlier folder are still in %s: %s", old, error)


def _remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files, then their folder, which fails while anything else is in it."""
    for name in names:
        (folder / name).unlink()
    folder.rmdir()


def _prefix(folder: Path, what: str) -> str:
    # A hash, because a long name would become too long.
    return f".trisect-{what}-{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:8]}-"


def _new_folder(folder: Path) -> tuple[Path, int | None]:
    """Return a new folder beside another one, on the same disk, and a lock on it that ends with this process."""
    while True:
        new = folder.with_name(f"{_prefix(folder, 'new')}{secrets.token_hex(4)}")
        new.mkdir()
        with suppress(BlockingIOError):
            lock = lock_path(new)
            if new.is_dir():  # not taken for abandoned by another process, before it was locked
                return new, lock
            if lock is not None:
                os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove the new folders of processes that were killed before these were complete."""
    for abandoned in folder.parent.glob(f"{_prefix(folder, 'new')}*"):
        with suppress(BlockingIOError):
            lock = lock_path(abandoned)
            if lock is not None:
                shutil.rmtree(abandoned, ignore_errors=True)
                os.close(lock)
