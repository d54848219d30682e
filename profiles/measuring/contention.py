"""Measures by how much two engines slow each other down when they compute on the same cores at once.

They run as in a session: on the hosts of the executor ``threads``, in this process with all cores for each, and on
those of ``processes``, which divide the cores. The reference is always one engine alone with all cores, as operators
were measured, so that a measured time is multiplied by the slowdown.
"""

from __future__ import annotations

import statistics
import threading
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
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.tensor_pool import TensorPool

from ..stored.profile_data import Contention
from .call_timing import repeat
from .measurement_plan import measurement_plan
from .operator_cases import OperatorCase, contention_cases

EXECUTORS = ("threads", "processes")
_DURATION_S = 0.45
_ROUNDS = 3
_MIN_RUNS, _MAX_RUNS, _WARM_UP = 3, 1_000_000, 1
_GRACE_S = 10.0


def contending_pairs(devices: Sequence[Device]) -> list[tuple[Device, Device]]:
    """Return the pairs of devices that compute on the same cores."""
    own = [device for device in devices if device.kind == "cpu" and device.is_real and not device.node]
    return [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]


def measure_contention(
    pair: tuple[Device, Device], options: LoadOptions, executor: str, *, duration_s: float = _DURATION_S
) -> tuple[Contention, ...]:
    """Measure by how much each of two devices slows down the other, on a compute-bound and a memory-bound case.

    Parameters
    ----------
    pair : tuple of Device
    options : LoadOptions
        Of both engines.
    executor : str
        ``"threads"`` or ``"processes"``.
    duration_s : float
        How long each device is timed.

    Raises
    ------
    EngineFailed
        When one of them cannot run the cases.
    """
    rows: list[Contention] = []
    for case in contention_cases():
        with ScratchFolder("contention") as folder, ExitStack() as stack:
            segment, feeds = _segment(case, Path(folder)), {"x": case.feed()}
            alone = stack.enter_context(_open_hosts(pair, segment, Path(folder), options, "threads"))
            together = alone
            if executor != "threads":
                together = stack.enter_context(_open_hosts(pair, segment, Path(folder), options, executor))
            for device, beside in permutations(pair):
                quiet_s: list[float] = []
                busy_s: list[float] = []
                for _ in range(_ROUNDS):  # alternating, because the machine's speed changes over time
                    quiet_s += _time_runs(alone[device.id], segment, feeds, duration_s / _ROUNDS)
                    with _keep_busy(together[beside.id], segment, feeds):
                        busy_s += _time_runs(together[device.id], segment, feeds, duration_s / _ROUNDS)
                low, together_s, high = statistics.quantiles(busy_s, n=4)
                rows.append(
                    Contention(
                        device=device.id,
                        beside=beside.id,
                        executor=executor,
                        op_class=case.op_class,
                        alone_s=statistics.median(quiet_s),
                        together_s=together_s,
                        spread=(high - low) / together_s,
                        date=datetime.now(UTC).isoformat(timespec="seconds"),
                    )
                )
    return tuple(rows)


def _segment(case: OperatorCase, folder: Path) -> Segment:
    content = case.build()
    assert isinstance(content, bytes)
    (folder / "segment.onnx").write_bytes(content)
    ends = (TensorSpec("x", "float32", case.shape),), (TensorSpec("y", "float32", case.output_shape),)
    return Segment(0, "", (case.name,), *ends, "segment.onnx")


@contextmanager
def _open_hosts(
    devices: Sequence[Device], segment: Segment, folder: Path, options: LoadOptions, executor: str
) -> Iterator[dict[str, Host]]:
    """The hosts that an executor uses for a stream of items, by device id."""
    pool = TensorPool(shared=executor == "processes")
    plan = measurement_plan("contention", devices, [segment], folder)
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
def _keep_busy(host: Host, segment: Segment, feeds: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Keep a host busy during a ``with`` block.

    Raises
    ------
    EngineFailed
        When it failed before the end: the times measured meanwhile are invalid.
    """
    stop, started = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                host.run(segment, feeds)
                started.set()
        except BaseException as error:  # re-raised in the thread that waits for this one
            failures.append(error)
            started.set()

    thread = threading.Thread(target=work, daemon=True, name="trisect-contention")
    thread.start()
    started.wait(_GRACE_S)
    try:
        yield
    finally:
        stop.set()
        thread.join(_GRACE_S)
    if failures:
        raise failures[0]


def _time_runs(host: Host, segment: Segment, feeds: Mapping[str, np.ndarray], duration_s: float) -> list[float]:
    """Return the seconds of each run."""
    for _ in range(_WARM_UP):
        host.run(segment, feeds)
    times_s: list[float] = []
    for _ in repeat(duration_s, _MIN_RUNS, _MAX_RUNS):
        ran = host.run(segment, feeds)
        times_s.append(ran.end_s - ran.start_s)
    return times_s
