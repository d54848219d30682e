"""Keeps the threads that compute one operator on cores of their own.

A system may put the thread that calls an engine and the one that helps it on one core, for seconds, while another core
rests: every operator then takes up to twice as long. Where the system lets a process say so (Linux), callers get the
first core and the engine's helpers the others.
"""

from __future__ import annotations

import os
import threading

CALLERS = "trisect"
"""What the names of threads that call engines begin with."""


def cores() -> tuple[int, ...]:
    """Cores that this process may use, in order; none where the system does not tell."""
    try:
        return tuple(sorted(os.sched_getaffinity(os.getpid())))
    except AttributeError:  # not on macOS and Windows
        return ()


def pin_callers() -> None:
    """Put the threads of this process that call engines on the first core; nothing where that cannot be said."""
    there = cores()
    if len(there) < 2:
        return
    for thread in threading.enumerate():
        if thread.name.startswith(CALLERS) and thread.native_id is not None:
            os.sched_setaffinity(thread.native_id, {there[0]})
