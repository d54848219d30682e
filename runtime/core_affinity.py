"""Keeps the threads that compute one operator on cores of their own.

An engine splits an operator among the calling thread and its helper threads, one per core, and waits for the slowest.
The system may schedule the caller on a helper's core for seconds while another core idles: every operator then takes up
to twice as long. So helpers are pinned to all cores but one (ONNX Runtime does so by itself unless the number of
threads is set), and a caller that finds itself on a helper's core moves away when a run begins.

The caller moves but is not pinned: as soon as it has moved, it may run on all its cores again. The thread belongs to
the user, who may have chosen its cores; and a pinned caller would have to share its core with whatever else runs there,
such as another session's caller or another process. Measured with another process on the caller's core, a pinned caller
was up to a third slower than an unpinned one, and one that moves was never slower.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .device import Device

THREAD_NAME_PREFIX = "trisect"
"""Of threads that call engines."""

_CHECK_INTERVAL_S = 2e-3
"""A caller checks its core at most once in this time: moving takes some 10 us, which short runs would not regain."""
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def cores() -> tuple[tuple[int, ...], ...]:
    """Return the physical cores that this thread may use, each with the numbers of its logical processors.

    Empty where the system does not support affinity.
    """
    try:
        remaining = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return ()
    physical = []
    while remaining:
        siblings = _siblings(remaining[0])
        physical.append(tuple(number for number in remaining if number in siblings))
        remaining = [number for number in remaining if number not in siblings]
    return tuple(physical)


class CoreAffinity:
    """The cores of one module's helper threads and of its caller.

    Parameters
    ----------
    physical : tuple of tuple of int
        Cores as `cores` returns them; the first one is the caller's.
    """

    def __init__(self, physical: tuple[tuple[int, ...], ...]) -> None:
        self.count = len(physical)
        self.helpers = physical[1:]
        self._caller_core = frozenset(physical[0])
        self._helper_cores = frozenset(number for core in physical[1:] for number in core)
        self._next_check_s = 0.0

    @classmethod
    def current(cls) -> CoreAffinity | None:
        """Return one over all cores that this thread may use; None where the system does not support affinity."""
        physical = cores()
        return cls(physical) if physical and _current_core is not None else None

    def leave_helper_cores(self) -> None:
        """Move the calling thread off the helpers' cores if it is on one and may run elsewhere."""
        now_s = time.perf_counter()
        if now_s < self._next_check_s:
            return
        self._next_check_s = now_s + _CHECK_INTERVAL_S
        if _current_core is None or _current_core() not in self._helper_cores:
            return
        try:
            allowed = os.sched_getaffinity(0)
            if allowed & self._caller_core:
                os.sched_setaffinity(0, allowed & self._caller_core)
                os.sched_setaffinity(0, allowed)
        except OSError:  # the process lost a core meanwhile: leave it to the system
            pass


def pin_callers() -> None:
    """Pin the threads of this process that call engines to the first core, where the system supports that."""
    physical = cores()
    if len(physical) < 2:
        return
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD_NAME_PREFIX) and thread.native_id is not None:
            os.sched_setaffinity(thread.native_id, physical[0])


def stay_on(numbers: Sequence[int]) -> None:
    """Restrict this process to some logical processors, where the system supports that; none = no restriction."""
    if numbers and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def assign_cores(devices: Sequence[Device], threads: int | None, *, side_by_side: bool) -> dict[str, tuple[int, ...]]:
    """Assign logical processors to the process of each device; empty = all.

    Parameters
    ----------
    devices : sequence of Device
    threads : int, optional
        Computing threads of each CPU engine, which gets as many processors of its own if there are enough.
    side_by_side : bool
        Whether the CPU engines compute at the same time rather than in turn, and share the processors out.

    Examples
    --------
    >>> cpu = [Device(f"cpu:{name}", "cpu", name, "") for name in ("ort", "openvino")]
    >>> assign_cores(cpu, None, side_by_side=False)
    {'cpu:ort': (), 'cpu:openvino': ()}
    """
    ids = [device.id for device in devices if device.kind == "cpu"]
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    share = len(available) // len(ids) if side_by_side and len(ids) > 1 else 0
    each = threads if threads is not None else share
    if each * len(ids) > len(available):
        each = 0
    return {
        device.id: tuple(available[ids.index(device.id) * each :][:each]) if device.id in ids else ()
        for device in devices
    }


def _siblings(number: int) -> set[int]:
    """Return the logical processors of the physical core that one of them belongs to."""
    siblings = {number}
    try:
        for part in Path(_SIBLINGS.format(number)).read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            siblings.update(range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        pass
    return siblings


def _core_getter() -> Callable[[], int] | None:
    """Return a function for the logical processor of the calling thread; None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except AttributeError:
        return None


_current_core = _core_getter()
