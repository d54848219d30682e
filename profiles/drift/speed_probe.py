"""Times a small fixed workload on a device, to notice when the device has become faster or slower for long.

Neighbours on a shared machine slow a core by half for some milliseconds, again and again, and which cores an engine's
threads get changes from process to process. So only the fastest runs are used, and for a CPU the workload is that of a
single thread without an engine: arithmetic on small matrices, and copies of more than the inner caches hold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from statistics import geometric_mean

import numpy as np

from trisect.runtime.core_affinity import cores
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed

from ..measuring.call_timing import repeat
from ..measuring.onnx_builder import noise
from ..measuring.operator_cases import OperatorCase, square_matmul, tiny_chain

_DURATION_S = 0.2
_ROUNDS_MIN, _ROUNDS_MAX = 4, 200
_RUNS = 3
"""Runs of each part in a row, on one core."""
_MATRIX_SIZE, _MATRICES = 64, 8
"""NumPy multiplies matrices of this size in one thread."""
_COPY_BYTES = 8 << 20
_PRODUCT_SIZE = 256
_CORES_MAX = 8


def probe_time_s(device: Device, options: LoadOptions | None = None) -> float:
    """Return the seconds of the probe: the geometric mean of the shortest times of its parts.

    Parameters
    ----------
    options : LoadOptions, optional
        Of the engine of a device that is no CPU.

    Raises
    ------
    EngineFailed
        When the device cannot even run the smallest model.
    """
    if device.kind == "cpu":
        return _shortest_s(_host_workload())
    options = options or LoadOptions()
    with ExitStack() as stack:
        parts = []
        with suppress(EngineFailed):
            parts.append(_call(square_matmul(_PRODUCT_SIZE), device, options, stack))
        return _shortest_s([*parts, _call(tiny_chain(1), device, options, stack)])


def _host_workload() -> list[Callable[[], object]]:
    matrix = noise((_MATRIX_SIZE, _MATRIX_SIZE))
    product, source = np.empty_like(matrix), np.ones(_COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)

    def multiply() -> None:
        for _ in range(_MATRICES):
            np.dot(matrix, matrix, out=product)

    return [multiply, lambda: np.copyto(target, source)]


def _call(case: OperatorCase, device: Device, options: LoadOptions, stack: ExitStack) -> Callable[[], object]:
    module = stack.enter_context(closing(load(case.build(), device, options)))
    return module.bind(case.feeds(), case.buffers()).run


def _shortest_s(parts: Sequence[Callable[[], object]]) -> float:
    """Run the parts in turn, on one core after the other where the system allows that."""
    shortest_s = [float("inf")] * len(parts)
    physical = cores()[:_CORES_MAX]
    allowed = os.sched_getaffinity(0) if physical else set()
    try:
        for turn in repeat(_DURATION_S, _ROUNDS_MIN, _ROUNDS_MAX):
            if physical:
                os.sched_setaffinity(0, physical[turn % len(physical)])
            for number, part in enumerate(parts):
                for _ in range(_RUNS):
                    start_s = time.perf_counter()
                    part()
                    shortest_s[number] = min(shortest_s[number], time.perf_counter() - start_s)
    finally:
        if physical:
            os.sched_setaffinity(0, allowed)
    return geometric_mean(shortest_s)
