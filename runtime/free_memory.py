"""Compares what is about to be allocated with the free memory: Linux kills a process rather than refuse it a page."""

from __future__ import annotations

from pathlib import Path

import psutil

from .errors import OutOfMemory

_CHECKED_BYTES_MIN = 1 << 26
"""Smaller allocations are not worth asking the system."""
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes() -> int:
    """Return the memory that this process can still get, also inside a container with a limit of its own."""
    free = int(psutil.virtual_memory().available)
    for limit, usage in _CGROUP_FILES:
        try:
            free = min(free, int(Path(limit).read_text("ascii")) - int(Path(usage).read_text("ascii")))
        except (OSError, ValueError):  # no such cgroup; "max" = no limit
            continue
    return max(0, free)


def check_free(size_bytes: int, what: str, remedy: str) -> None:
    """Check that memory for something is free.

    Parameters
    ----------
    what : str
        What needs it, as the subject of the message.

    Raises
    ------
    OutOfMemory

    Examples
    --------
    >>> check_free(1000, "the feeds", "use smaller ones")
    """
    if size_bytes >= _CHECKED_BYTES_MIN and size_bytes > (free := free_bytes()):
        raise OutOfMemory(f"{what} need {_gigabytes(size_bytes)}, and {_gigabytes(free)} are free", remedy=remedy)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.3g} GB" if size_bytes < 1e15 else "more than a million GB"
