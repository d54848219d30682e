"""Temporary folders that do not outlive their process: those of killed processes are removed when one is created."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LOCK_FILE = "owner"


@contextmanager
def scratch_folder(base: Path, prefix: str) -> Iterator[Path]:
    """Create a folder that only this user can read, and remove it at the end.

    Folders of processes that have ended are removed too.

    Parameters
    ----------
    base : Path
        Folder in which to create it.
    prefix : str
        Begin of its name; every folder in ``base`` whose name begins so is a scratch folder.
    """
    for abandoned in base.glob(f"{prefix}*"):
        lock = _lock(abandoned, "r+")
        if lock is not None:
            with lock:
                shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    lock = _lock(folder, "w")
    try:
        yield folder
    finally:
        if lock is not None:
            lock.close()
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path, mode: str) -> IO[str] | None:
    """Return the folder's lock file, locked; None while a living process has it, also one in another container."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove a folder that is in use
        return None
    try:
        file: IO[str] = (folder / _LOCK_FILE).open(mode)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
