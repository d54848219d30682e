"""Measures the time of a transfer between two devices, on the path that a session uses.

Two segments of one cheap operator each are run in a session; the time from the end of the first to the start of the
second is the link's. Where engines share the host's memory, a tensor is passed by reference and its size is irrelevant.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper

from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

from ..stored.profile_data import Link, LinkPoint
from .call_timing import repeat
from .measurement_plan import measurement_plan
from .onnx_builder import build_model

SIZES_BYTES = (1 << 10, 64 << 10, 1 << 20, 16 << 20)
LARGE_BYTES = 256 << 20
_BY_REFERENCE_BYTES_PER_S = 1e12
_MAX_DURATION_S, _MIN_RUNS = 1.0, 3
_RUNS = {1 << 10: 40, 64 << 10: 40, 1 << 20: 20, 16 << 20: 7, LARGE_BYTES: 3}


def measure_link(
    source: Device,
    target: Device,
    options: LoadOptions | None = None,
    sizes_bytes: Sequence[int] = SIZES_BYTES,
    *,
    executor: str = "threads",
    address: str | None = None,
) -> Link:
    """Time transfers of several sizes from one device to another.

    Parameters
    ----------
    source, target : Device
    options : LoadOptions, optional
        Of both engines.
    sizes_bytes : sequence of int
        From `SIZES_BYTES` and `LARGE_BYTES`, ascending.
    executor, address : str
        Of the session that transfers the tensors.

    Raises
    ------
    EngineFailed
        When one of them cannot run the smallest model.
    """
    with ScratchFolder("link") as folder:
        open_session = partial(Session, executor=executor, options=options, address=address)
        points = tuple(_measure_size(source, target, size, Path(folder), open_session) for size in sizes_bytes)
    latency_s, bandwidth = fit_link(points)
    return Link(source.id, target.id, latency_s, bandwidth, points)


def fit_link(points: tuple[LinkPoint, ...]) -> tuple[float, float | None]:
    """Return latency and bandwidth of a link, from transfers of several sizes.

    Returns
    -------
    latency_s : float
    bandwidth_bytes_per_s : float or None
        None where the largest transfer takes less than twice the time of the smallest, or is faster than any memory.

    Examples
    --------
    >>> fit_link((LinkPoint(1000, 2e-6), LinkPoint(1_001_000, 1.002e-3)))
    (2e-06, 1000000000.0)
    >>> fit_link((LinkPoint(1000, 2e-6), LinkPoint(1_001_000, 2.1e-6)))
    (2e-06, None)
    """
    small, large = points[0], points[-1]
    if large.time_s < 2 * small.time_s:
        return small.time_s, None
    rate = (large.size_bytes - small.size_bytes) / (large.time_s - small.time_s)
    return small.time_s, round(rate, 3) if rate < _BY_REFERENCE_BYTES_PER_S else None


def _measure_size(
    source: Device, target: Device, size_bytes: int, folder: Path, open_session: Callable[[Plan], Session]
) -> LinkPoint:
    count = size_bytes // 4
    names = ("x", "t", "y")
    specs = [TensorSpec(name, "float32", (count,)) for name in names]
    segments = []
    for index, device in enumerate((source, target)):
        ends = names[index], names[index + 1]
        model = build_model([helper.make_node("Neg", [ends[0]], [ends[1]])], [count], [count], names=ends)
        file = folder / f"{size_bytes}-{index}.onnx"
        file.write_bytes(model.SerializeToString())
        tensors = (specs[index],), (specs[index + 1],)
        segments.append(Segment(index, device.id, (f"negate {index}",), *tensors, file.name))
    gaps_s = []
    with open_session(measurement_plan("link", (source, target), segments, folder)) as session:
        feeds = {"x": np.ones(count, np.float32)}
        session.run(feeds)
        # A simulator takes a second for each run.
        for _ in repeat(_MAX_DURATION_S, _MIN_RUNS, _RUNS[size_bytes]):
            session.run(feeds)
            first, second = (event for event in session.trace.events if event.kind == "compute")
            gaps_s.append(second.start_s - first.end_s)
    return LinkPoint(size_bytes, statistics.median(gaps_s))
