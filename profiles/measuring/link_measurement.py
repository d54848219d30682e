"""Measures what a hand-over between two devices takes, on the very path that a session uses.

Two segments of one cheap operator each are run in a session; the time from the end of the first to the start of the
second is the link's. Where engines share the host's memory a tensor goes by reference and its size does not matter.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

from ..stored.profile_data import Link, LinkPoint

SIZES_BYTES = (1 << 10, 64 << 10, 1 << 20, 16 << 20)
LARGE_BYTES = 256 << 20
_BY_REFERENCE_BYTES_PER_S = 1e12
_LASTING_S, _FEWEST = 1.0, 3
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
    """Time hand-overs of several sizes from one device to another.

    Parameters
    ----------
    source, target : Device
    options : LoadOptions, optional
        Of both engines.
    sizes_bytes : sequence of int
        Of `SIZES_BYTES` and `LARGE_BYTES`, from small to large.
    executor, address : str
        Of the session that carries the tensors.

    Raises
    ------
    EngineFailed
        Where one of them cannot run the smallest model.
    """
    with tempfile.TemporaryDirectory(prefix="trisect-link-") as folder:
        opening = partial(Session, executor=executor, options=options, address=address)
        points = tuple(_measure(source, target, size, Path(folder), opening) for size in sizes_bytes)
    latency_s, bandwidth = fit_link(points)
    return Link(source.id, target.id, latency_s, bandwidth, points)


def fit_link(points: tuple[LinkPoint, ...]) -> tuple[float, float | None]:
    """Latency and bandwidth of a link from transfers of several sizes.

    Returns
    -------
    latency_s : float
    bandwidth_bytes_per_s : float or None
        None where the largest takes less than twice the time of the smallest, or less than any memory could copy it in.

    Examples
    --------
    >>> line((LinkPoint(1000, 2e-6), LinkPoint(1_001_000, 1.002e-3)))
    (2e-06, 1000000000.0)
    >>> line((LinkPoint(1000, 2e-6), LinkPoint(1_001_000, 2.1e-6)))
    (2e-06, None)
    """
    small, large = points[0], points[-1]
    if large.time_s < 2 * small.time_s:
        return small.time_s, None
    rate = (large.size_bytes - small.size_bytes) / (large.time_s - small.time_s)
    return small.time_s, round(rate, 3) if rate < _BY_REFERENCE_BYTES_PER_S else None


def _measure(
    source: Device, target: Device, size_bytes: int, folder: Path, opening: Callable[[Plan], Session]
) -> LinkPoint:
    count = size_bytes // 4
    names = ("x", "t", "y")
    specs = [TensorSpec(name, "float32", (count,)) for name in names]
    segments = []
    for index, device in enumerate((source, target)):
        file = folder / f"{size_bytes}-{index}.onnx"
        file.write_bytes(_negation(names[index], names[index + 1], count))
        ends = (specs[index],), (specs[index + 1],)
        segments.append(Segment(index, device.id, (f"negate {index}",), *ends, file.name))
    plan = Plan(
        model="link", model_sha256="", devices=(source, target), placement={}, segments=tuple(segments), transfers=(),
        inputs=(specs[0],), outputs=(specs[2],), strategy="link", objective="latency", seed=0, shapes={},
        predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(folder),
    )  # fmt: skip
    gaps = []
    with opening(plan) as session:
        feeds = {"x": np.ones(count, np.float32)}
        session.run(feeds)
        until_s = time.perf_counter() + _LASTING_S
        for done in range(_RUNS[size_bytes]):
            if done >= _FEWEST and time.perf_counter() > until_s:
                break  # a simulator takes a second for each
            session.run(feeds)
            first, second = (event for event in session.trace.events if event.kind == "compute")
            gaps.append(second.start_s - first.end_s)
    return LinkPoint(size_bytes, statistics.median(gaps))


def _negation(source: str, target: str, count: int) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Neg", [source], [target])],
        "link",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [count])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, [count])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
