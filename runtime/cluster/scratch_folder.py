"""Folders that do not outlive their process, even one that was killed: whoever makes the next one clears up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_OWNER = "owner"


@contextmanager
def scratch_folder(base: Path, prefix: str) -> Iterator[Path]:
    """A new folder of this user's only, removed at the end; those of processes that are gone are removed on the way.

    Parameters
    ----------
    base : Path
        Where to make it.
    prefix : str
        Its name begins with this, and whatever else begins with it there is such a folder too.
    """
    for left in base.glob(f"{prefix}*"):
        owner = _locked(left, "r+")
        if owner is not None:
            with owner:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    owner = _locked(folder, "w")
    try:
        yield folder
    finally:
        if owner is not None:
            owner.close()
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path, mode: str) -> IO[str] | None:
    """The folder's lock file, locked; None while a living process has it, which shows across containers too."""
    try:
        import fcntl
    except ImportError:  # Windows has none, and does not let a folder go that is in use
        return None
    try:
        file: IO[str] = (folder / _OWNER).open(mode)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
