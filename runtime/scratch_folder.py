"""Temporary folders that do not outlive their process: those of killed processes are removed by the next one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from .files.path_locks import lock_path

NAME_LENGTH = len("trisect--") + 8
"""Length of a folder's name without its purpose."""
_NAME = re.compile(r"trisect-[a-z]+-[0-9a-f]{8}")
_MARKER = ".trisect-scratch"

_in_use: set[Path] = set()
_cleared: set[Path] = set()
_guard = threading.Lock()


class ScratchFolder:
    """A temporary folder that only this user can read; a context manager that yields its path.

    It is removed by `close`, when nothing refers to it any more, or when this process ends; after a kill, by the next
    process that calls `remove_abandoned`, as each one does that needs such a folder.

    Parameters
    ----------
    purpose : str
        A word for its name.
    base : Path, optional
        Folder in which to create it; the system's temporary folder when left out.

    Raises
    ------
    OSError
        When it cannot be created.

    Examples
    --------
    >>> with ScratchFolder("example") as folder:
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """

    def __init__(self, purpose: str, base: Path | None = None) -> None:
        base = Path(tempfile.gettempdir()) if base is None else base
        with _guard:
            is_cleared = base in _cleared
            _cleared.add(base)
        if not is_cleared:
            remove_abandoned(base)
        self.path, lock = _new_folder(base, purpose)
        _in_use.add(self.path)
        self._finalizer = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def close(self) -> None:
        """Remove the folder."""
        self._finalizer()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_abandoned(base: Path | None = None) -> None:
    """Remove the scratch folders of processes that have ended.

    Parameters
    ----------
    base : Path, optional
        Where they are; the system's temporary folder when left out.
    """
    base = Path(tempfile.gettempdir()) if base is None else base
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if _NAME.fullmatch(name):
                _remove_if_abandoned(base / name)


def remove_all() -> None:
    """Remove the scratch folders of this process, which is about to end without a clean exit."""
    for folder in list(_in_use):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # BlockingIOError, too: it is in use
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            return
        lock = lock_path(folder)
        if lock is None:
            return
        try:
            if (folder / _MARKER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.rmdir()  # fails unless it is empty: a folder of that name that is not ours
        finally:
            os.close(lock)


def _new_folder(base: Path, purpose: str) -> tuple[Path, int | None]:
    """Return a new folder and a lock on it."""
    while True:
        folder = base / f"trisect-{purpose}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileExistsError, BlockingIOError):
            folder.mkdir(mode=0o700)
            lock = lock_path(folder)
            with contextlib.suppress(FileNotFoundError):  # taken for abandoned before it was locked
                (folder / _MARKER).touch()
                return folder, lock
            if lock is not None:
                os.close(lock)


def _remove(folder: Path, lock: int | None, owner_pid: int) -> None:
    if owner_pid != os.getpid():  # a forked copy of the owner
        return
    shutil.rmtree(folder, ignore_errors=True)
    _in_use.discard(folder)
    if lock is not None:
        os.close(lock)
