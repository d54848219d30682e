"""Measures how much two engines slow each other when they compute on the same cores at once.

They are run as a session runs them: by the hosts of the executor ``threads``, in this process with all cores for each,
and by those of ``processes``, which share the cores out. Alone is always one engine with all cores, as operators were
measured, so that a slowdown is what a measured time has to be multiplied with.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import numpy as np

from trisect.runtime.core_affinity import assign_cores
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.executors.dispatch.host import Host
from trisect.runtime.executors.processes import process_host
from trisect.runtime.executors.threads import ThreadHost
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.tensor_pool import TensorPool

from ..stored.profile_data import Contention
from .operator_cases import OperatorCase, contention_cases

EXECUTORS = ("threads", "processes")
_LASTING_S = 0.45
_ROUNDS = 3
_FEWEST, _WARM_UP = 3, 1
_GRACE_S = 10.0


def contending_pairs(devices: Sequence[Device]) -> list[tuple[Device, Device]]:
    """Pairs of devices that compute on the same cores, each once."""
    own = [device for device in devices if device.kind == "cpu" and device.is_real and not device.node]
    return [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]


def measure_contention(
    pair: tuple[Device, Device], options: LoadOptions, executor: str, *, lasting_s: float = _LASTING_S
) -> tuple[Contention, ...]:
    """How much each of two devices slows the other, at compute-bound and at memory-bound work.

    Parameters
    ----------
    pair : tuple of Device
    options : LoadOptions
        Of both engines.
    executor : str
        ``"threads"`` or ``"processes"``.
    lasting_s : float
        How long each is timed.

    Raises
    ------
    EngineFailed
        Where one of them cannot run the cases.
    """
    found: list[Contention] = []
    for case in contention_cases():
        with tempfile.TemporaryDirectory(prefix="trisect-contention-") as folder, ExitStack() as stack:
            segment, feeds = _segment(case, Path(folder)), {"x": case.feed()}
            alone = stack.enter_context(_opened(pair, segment, Path(folder), options, "threads"))
            both = alone
            if executor != "threads":
                both = stack.enter_context(_opened(pair, segment, Path(folder), options, executor))
            for device, beside in permutations(pair):
                quiet_s: list[float] = []
                busy_s: list[float] = []
                for _ in range(_ROUNDS):  # in turns: the machine may be slower now than a moment ago, for both
                    quiet_s += _timed(alone[device.id], segment, feeds, lasting_s / _ROUNDS)
                    with _busy(both[beside.id], segment, feeds):
                        busy_s += _timed(both[device.id], segment, feeds, lasting_s / _ROUNDS)
                low, together_s, high = statistics.quantiles(busy_s, n=4)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                found.append(
                    Contention(
                        device.id, beside.id, executor, case.op_class, statistics.median(quiet_s), together_s,
                        (high - low) / together_s, now,
                    )
                )  # fmt: skip
    return tuple(found)


def _segment(case: OperatorCase, folder: Path) -> Segment:
    made = case.build()
    assert isinstance(made, bytes)
    (folder / "segment.onnx").write_bytes(made)
    ends = (TensorSpec("x", "float32", case.shape),), (TensorSpec("y", "float32", case.output_shape),)
    return Segment(0, "", (case.name,), *ends, "segment.onnx")


@contextmanager
def _opened(
    devices: Sequence[Device], segment: Segment, folder: Path, options: LoadOptions, executor: str
) -> Iterator[dict[str, Host]]:
    """The hosts that an executor would use for a stream of items."""
    pool = TensorPool(shared=executor == "processes")
    plan = Plan(
        model=segment.file, model_sha256="", devices=tuple(devices), placement={}, segments=(segment,), transfers=(),
        inputs=segment.inputs, outputs=segment.outputs, strategy="contention", objective="throughput", seed=0,
        shapes={}, predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(folder),
    )  # fmt: skip
    cores = assign_cores(devices, options.threads, side_by_side=True)
    hosts: dict[str, Host] = {}
    with ExitStack() as stack:
        stack.callback(pool.close)
        for device in devices:
            host: Host
            if executor == "processes":
                host = process_host(device, [segment], folder, options, pool, cores[device.id])
            else:
                host = ThreadHost(device, [segment], plan, replace(options, pinned=True), pool, {})
            stack.callback(host.close)
            host.open()
            hosts[device.id] = host
        yield hosts


@contextmanager
def _busy(host: Host, segment: Segment, feeds: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Keep a host at work for the time of a block.

    Raises
    ------
    EngineFailed
        Where it stopped working before the end: what was timed beside it then means nothing.
    """
    stop, begun = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                host.run(segment, feeds)
                begun.set()
        except BaseException as error:  # told to whoever waits for this thread
            failures.append(error)
            begun.set()

    thread = threading.Thread(target=work, daemon=True, name="trisect-contention")
    thread.start()
    begun.wait(_GRACE_S)
    try:
        yield
    finally:
        stop.set()
        thread.join(_GRACE_S)
    if failures:
        raise failures[0]


def _timed(host: Host, segment: Segment, feeds: Mapping[str, np.ndarray], lasting_s: float) -> list[float]:
    """Seconds of each run."""
    for _ in range(_WARM_UP):
        host.run(segment, feeds)
    times: list[float] = []
    until_s = time.perf_counter() + lasting_s
    while len(times) < _FEWEST or time.perf_counter() < until_s:
        ran = host.run(segment, feeds)
        times.append(ran.end_s - ran.start_s)
    return times
