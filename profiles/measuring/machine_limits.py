"""The machine's roofs: how fast its memory can be read and how fast a device can multiply.

No plan is faster than these, so a report can say how near it came.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions

from .operator_cases import square_matmul

_ARRAY_BYTES = 256 << 20
_PRODUCT_SIZES = (256, 1024)
_LONG_S = 0.002
_REPEATS = 30
_LASTING_S = 1.0


def read_bandwidth_bytes_per_s(threads: int | None = None) -> float:
    """Bytes a second that cores read from memory, the best of a few passes over more than the caches hold.

    Parameters
    ----------
    threads : int, optional
        Reading at once; default: as many as there are cores for this process.
    """
    workers = threads or _cores()
    array = np.ones(_ARRAY_BYTES // 8, np.float64)
    parts = np.array_split(array, workers)
    best_s = float("inf")
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(_REPEATS):
            for kernel in (np.max, _dot):  # which of them keeps up with the memory depends on the processor
                start_s = time.perf_counter()
                list(pool.map(kernel, parts))  # numpy lets the interpreter's lock go while it reads
                best_s = min(best_s, time.perf_counter() - start_s)
    return array.nbytes / best_s


def peak_flops(device: Device, options: LoadOptions) -> float:
    """Operations a second of a large square matrix product on a device, the best of a few.

    A device that is slow at a small one (a simulator) is not given the large one, which would take minutes.

    Raises
    ------
    EngineFailed
        Where the device cannot run it.
    """
    best = 0.0
    for size in _PRODUCT_SIZES:
        case = square_matmul(size)
        module = load(case.build(), device, options)
        try:
            binding = module.bind(case.feeds(), case.buffers())
            binding.run()
            best_s = float("inf")
            until_s = time.perf_counter() + _LASTING_S
            for _ in range(_REPEATS):
                start_s = time.perf_counter()
                binding.run()
                best_s = min(best_s, time.perf_counter() - start_s)
                if time.perf_counter() > until_s:
                    break
        finally:
            module.close()
        best = max(best, case.flops / best_s)
        if best_s > _LONG_S:
            break
    return best


def _dot(part: np.ndarray) -> float:
    return float(np.dot(part, part))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
