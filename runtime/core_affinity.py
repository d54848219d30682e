"""Keeps the threads that compute one operator on cores of their own.

An engine splits an operator among the thread that calls it and its helpers, one to a core, and waits for the last of
them. A system may put the caller onto a helper's core for seconds while another core rests: every operator then takes
up to twice as long. So helpers keep to all cores but one (ONNX Runtime does so by itself where nobody says how many
threads there are to be), and a caller that finds itself on a helper's core moves away as a run begins.

It moves, it is not pinned: its thread may run wherever it might before as soon as it has moved. The thread belongs to
the user, who may have said where it is to run; and a caller that could not leave its core would wait there for whatever
else runs on it: another session's caller, another process. Measured with another process on the caller's core, a
pinned caller was up to a third slower than one left alone, and one that moves never.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

CALLERS = "trisect"
"""What the names of threads that call engines begin with."""

_LOOKS_S = 2e-3
"""No caller looks where it is more often than that: moving takes some 10 us, which short runs would not get back."""
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def cores() -> tuple[tuple[int, ...], ...]:
    """Processor cores that this thread may use, each as the numbers that the system has for it: one for each of the
    threads that it runs at once. None where the system does not tell.
    """
    try:
        left = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return ()
    found = []
    while left:
        siblings = _siblings(left[0])
        found.append(tuple(number for number in left if number in siblings))
        left = [number for number in left if number not in siblings]
    return tuple(found)


class Seats:
    """Where the threads of one module compute.

    Parameters
    ----------
    there : tuple of tuple of int
        Cores, the caller's first.
    """

    def __init__(self, there: tuple[tuple[int, ...], ...]) -> None:
        self.count = len(there)
        self.helpers = there[1:]
        self._own = frozenset(there[0])
        self._taken = frozenset(number for core in there[1:] for number in core)
        self._looks_s = 0.0

    @classmethod
    def here(cls) -> Seats | None:
        """On all cores that this thread may use; None where the system does not tell."""
        there = cores()
        return cls(there) if there and _cpu is not None else None

    def take(self) -> None:
        """Move the calling thread off the helpers' cores, if it is there and may be elsewhere."""
        now_s = time.perf_counter()
        if now_s < self._looks_s:
            return
        self._looks_s = now_s + _LOOKS_S
        if _cpu is None or _cpu() not in self._taken:
            return
        try:
            allowed = os.sched_getaffinity(0)
            if allowed & self._own:
                os.sched_setaffinity(0, allowed & self._own)
                os.sched_setaffinity(0, allowed)
        except OSError:  # a core was taken from this process meanwhile: the system knows better
            pass


def pin_callers() -> None:
    """Put the threads of this process that call engines on the first core; nothing where that cannot be said."""
    there = cores()
    if len(there) < 2:
        return
    for thread in threading.enumerate():
        if thread.name.startswith(CALLERS) and thread.native_id is not None:
            os.sched_setaffinity(thread.native_id, there[0])


def _siblings(number: int) -> set[int]:
    """All numbers of the core that has one."""
    found = {number}
    try:
        for part in Path(_SIBLINGS.format(number)).read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        pass
    return found


def _where() -> Callable[[], int] | None:
    """Tells on which core the calling thread is; None where the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except AttributeError:
        return None


_cpu = _where()
