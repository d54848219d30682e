"""Locks on files and folders, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from pathlib import Path


def lock_path(path: Path) -> int | None:
    """Lock a file or folder until the returned descriptor is closed; None where this system or its disk has no locks.

    Raises
    ------
    BlockingIOError
        When another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
