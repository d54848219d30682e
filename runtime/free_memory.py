"""Compares what is about to be allocated with the free memory: Linux kills a process rather than refuse it a page."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from .errors import OutOfMemory

_CHECKED_BYTES_MIN = 1 << 26
"""Smaller allocations are not worth asking the system."""
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_V2_FILES = ("memory.max", "memory.current")
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_bytes() -> int:
    """Return the memory that this process can still get, also inside a container with a limit of its own.

    Cached file pages count as free, as they do for the whole machine: the system drops them when it needs memory.
    """
    free = int(psutil.virtual_memory().available)
    for limit, usage in _cgroup_files():
        try:
            used = int(usage.read_text("ascii")) - _cached_bytes(usage.parent)
            free = min(free, int(limit.read_text("ascii")) - used)
        except (OSError, ValueError):  # no such cgroup; "max" = no limit
            continue
    return max(0, free)


def limit_bytes() -> int | None:
    """Return the memory limit of this process's container; None where it has none."""
    limits = []
    for limit, _ in _cgroup_files():
        try:
            limits.append(int(limit.read_text("ascii")))
        except (OSError, ValueError):  # no such cgroup; "max" = no limit
            continue
    return min(limits, default=None)


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it: glibc does, in pieces below 32 MB."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


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


def _cgroup_files() -> Iterator[tuple[Path, Path]]:
    """Yield the files with limit and usage of the cgroups that this process is in, from its own one to the root.

    A line of ``/proc/self/cgroup`` is ``number:controllers:path``; version 2 names no controllers (cgroups(7)).
    """
    try:
        lines = _OWN_CGROUPS.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (_CGROUP_ROOT / "memory", _V1_FILES) if controllers else (_CGROUP_ROOT, _V2_FILES)
        # Inside a container, the path may be that of the host, of which only the root can be seen.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = root.joinpath(*parts[:depth])
            yield folder / names[0], folder / names[1]


def _cached_bytes(cgroup: Path) -> int:
    """Return the file pages that a cgroup has not used for a while."""
    try:
        lines = (cgroup / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    for name in ("total_inactive_file", "inactive_file"):  # version 1 counts children in the former only
        if name in values and values[name].isdigit():
            return int(values[name])
    return 0


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.3g} GB" if size_bytes < 1e15 else "more than a million GB"
