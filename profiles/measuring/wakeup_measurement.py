"""Measures how much slower a minimal call is after another engine has computed on the same cores.

Meanwhile the engine's threads have stopped spinning and its data has left the caches, so that a call that is fast in a
loop takes several times as long; more so, the longer the other engine computed.
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
from .call_timing import repeat
from .contention import contending_pairs
from .operator_cases import OperatorCase, square_matmul, tiny_chain

_SIZES = (192, 512, 1024)
"""Sizes of the matrix products that the other device computes: a fraction of a millisecond, some, and ten."""
_RUNS_MIN, _RUNS_MAX, _WARM_UP = 10, 25, 3
_DURATION_S = 0.2
_CALLS = 4
"""Number of calls after which the engine is warm again."""


def add_wakeups(devices: Sequence[Device], known: MutableMapping[str, DeviceProfile], options: LoadOptions) -> None:
    """Measure the wake-up costs that are not known yet, for pairs on the same cores that can run the cases."""
    for pair in contending_pairs(devices):
        for device, beside in permutations(pair):
            earlier = known[device.id].wakeups
            if all(point.beside != beside.id for point in earlier):
                with suppress(EngineFailed):
                    points = measure_wakeups(device, beside, options)
                    known[device.id] = msgspec.structs.replace(known[device.id], wakeups=(*earlier, *points))


def measure_wakeups(device: Device, beside: Device, options: LoadOptions) -> tuple[WakeupPoint, ...]:
    """Time a device's minimal call after another device has computed for increasing times.

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
        When one of them cannot run the cases.
    """
    points = []
    with ExitStack() as stack:
        minimal = _load_call(tiny_chain(1), device, options, stack)
        for size in _SIZES:
            other = _load_call(square_matmul(size), beside, options, stack)
            turns = repeat(_DURATION_S, _WARM_UP + _RUNS_MIN, _WARM_UP + _RUNS_MAX)
            times_s = [[_time(call) for call in (other, *[minimal] * _CALLS)] for _ in turns]
            idle_s, cold_s, *_, warm_s = (statistics.median(row) for row in zip(*times_s[_WARM_UP:], strict=True))
            points.append(WakeupPoint(beside.id, idle_s, cold_s, warm_s))
    return tuple(points)


def _load_call(case: OperatorCase, device: Device, options: LoadOptions, stack: ExitStack) -> Callable[[], object]:
    module, feeds = stack.enter_context(closing(load(case.build(), device, options))), case.feeds()
    return lambda: module.run(feeds)


def _time(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s
