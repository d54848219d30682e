"""The limits of the machine's roofline: read bandwidth of the memory, and peak operations per second of a device.

No plan is faster than these, so a report can state how close it came.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions

from .call_timing import repeat
from .operator_cases import square_matmul

_ARRAY_BYTES = 256 << 20
_PRODUCT_SIZES = (256, 1024)
_SLOW_S = 0.002
_MAX_RUNS = 30
_MAX_DURATION_S = 0.3


def read_bandwidth_bytes_per_s(threads: int | None = None) -> float:
    """Measure the read bandwidth of the memory: the best of some passes over more than the caches hold.

    Parameters
    ----------
    threads : int, optional
        Number of reading threads; default: the number of cores available to this process.
    """
    workers = threads or _cores()
    array = np.ones(_ARRAY_BYTES // 8, np.float64)
    parts = np.array_split(array, workers)
    best_s = float("inf")
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(_MAX_RUNS):
            for kernel in (np.max, _dot):  # which of them reaches the memory's limit depends on the processor
                start_s = time.perf_counter()
                list(pool.map(kernel, parts))  # numpy releases the GIL
                best_s = min(best_s, time.perf_counter() - start_s)
    return array.nbytes / best_s


def peak_flops(device: Device, options: LoadOptions) -> float:
    """Measure the operations per second of a large square matrix product on a device: the best of some runs.

    The large product is skipped on a device that is slow at a small one (a simulator), where it would take minutes.

    Raises
    ------
    EngineFailed
        When the device cannot run it.
    """
    best = 0.0
    for size in _PRODUCT_SIZES:
        case = square_matmul(size)
        module = load(case.build(), device, options)
        try:
            binding = module.bind(case.feeds(), case.buffers())
            binding.run()
            best_s = float("inf")
            for _ in repeat(_MAX_DURATION_S, 1, _MAX_RUNS):
                start_s = time.perf_counter()
                binding.run()
                best_s = min(best_s, time.perf_counter() - start_s)
        finally:
            module.close()
        best = max(best, case.flops / best_s)
        if best_s > _SLOW_S:
            break
    return best


def _dot(part: np.ndarray) -> float:
    return float(np.dot(part, part))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
