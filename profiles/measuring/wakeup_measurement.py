"""Measures how much longer a call takes after another engine has computed on the same cores for a while.

The engine's threads have gone to sleep meanwhile and its data have left the caches, so the same call that is quick in a
loop is several times slower behind it; the more so, the longer the other took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import permutations

import msgspec

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed

from ..stored.profile_data import DeviceProfile, WakeupPoint
from .contention import contending_pairs
from .operator_cases import OperatorCase, square_matmul, tiny_chain

_SIZES = (192, 512, 1024)
"""Of the matrix products that the other computes meanwhile: a fraction of a millisecond, some, and ten."""
_RUNS, _WARM_UP = 25, 3
_CALLS = 4
"""After so many its engine is warm again."""


def add_wakeups(devices: Sequence[Device], known: MutableMapping[str, DeviceProfile], options: LoadOptions) -> None:
    """Measure what is not known yet of pairs that share their cores; nothing of one that cannot run the cases."""
    for pair in contending_pairs(devices):
        for device, beside in permutations(pair):
            before = known[device.id].wakeups
            if all(found.beside != beside.id for found in before):
                with suppress(EngineFailed):
                    more = measure_wakeups(device, beside, options)
                    known[device.id] = msgspec.structs.replace(known[device.id], wakeups=(*before, *more))


def measure_wakeups(device: Device, beside: Device, options: LoadOptions) -> tuple[WakeupPoint, ...]:
    """What a device takes for a tiny call behind longer and longer work of another.

    Parameters
    ----------
    device : Device
        Whose calls are timed.
    beside : Device
        Which computes in between.
    options : LoadOptions
        Of both engines.

    Raises
    ------
    EngineFailed
        Where one of them cannot run the cases.
    """
    found = []
    with ExitStack() as stack:
        tiny = _calling(tiny_chain(1), device, options, stack)
        for size in _SIZES:
            other = _calling(square_matmul(size), beside, options, stack)
            times_s = [[_timed(call) for call in (other, *[tiny] * _CALLS)] for _ in range(_WARM_UP + _RUNS)]
            idle_s, cold_s, *_, warm_s = (statistics.median(row) for row in zip(*times_s[_WARM_UP:], strict=True))
            found.append(WakeupPoint(beside.id, idle_s, cold_s, warm_s))
    return tuple(found)


def _calling(case: OperatorCase, device: Device, options: LoadOptions, stack: ExitStack) -> Callable[[], object]:
    module, feeds = stack.enter_context(closing(load(case.build(), device, options))), case.feeds()
    return lambda: module.run(feeds)


def _timed(call: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s
