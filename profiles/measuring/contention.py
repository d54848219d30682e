"""Measures by how much two engines slow each other down when they compute on the same cores at once.

They run as in a session: on the hosts of the executor ``threads``, in this process with all cores for each, and on
those of ``processes``, which divide the cores. The reference is always one engine alone with all cores, as operators
were measured, so that a measured time is multiplied by the slowdown.

Both are timed at once. One engine often gets most of the processor's time and the other little, now this and now that
one; what they achieve together is steadier, and decides about the throughput of a stream. So rates are averaged, that
is, times by their harmonic mean.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
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
from .measurement_plan import measurement_plan
from .operator_cases import OperatorCase, contention_cases

EXECUTORS = ("threads", "processes")
_DURATION_S = 0.4
_ROUNDS = 6


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
            _mean_times_s(together, segment, feeds, 0.0)  # to warm up
            quiet_s: dict[str, list[float]] = defaultdict(list)
            busy_s: dict[str, list[float]] = defaultdict(list)
            for _ in range(_ROUNDS):  # alternating, because the machine's speed changes over time
                for device in pair:
                    own = {device.id: alone[device.id]}
                    quiet_s[device.id] += _mean_times_s(own, segment, feeds, duration_s / _ROUNDS).values()
                for device_id, time_s in _mean_times_s(together, segment, feeds, 2 * duration_s / _ROUNDS).items():
                    busy_s[device_id].append(time_s)
            for device, beside in permutations(pair):
                together_s = statistics.harmonic_mean(busy_s[device.id])
                rows.append(
                    Contention(
                        device=device.id,
                        beside=beside.id,
                        executor=executor,
                        op_class=case.op_class,
                        alone_s=statistics.harmonic_mean(quiet_s[device.id]),
                        together_s=together_s,
                        spread=(max(busy_s[device.id]) - min(busy_s[device.id])) / together_s,
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


def _mean_times_s(
    hosts: Mapping[str, Host], segment: Segment, feeds: Mapping[str, np.ndarray], duration_s: float
) -> dict[str, float]:
    """Run a segment on some hosts at once, again and again, and return the mean seconds of a run on each.

    The mean, not the median: an engine that others starve is held up now and then, for long.

    Raises
    ------
    EngineFailed
        When one of them failed: the times of the others are invalid then.
    """
    times_s: dict[str, float] = {}
    failures: list[BaseException] = []
    end_s = time.perf_counter() + duration_s

    def work(device_id: str, host: Host) -> None:
        try:
            start_s, runs = time.perf_counter(), 0
            while not failures and (not runs or time.perf_counter() < end_s):
                host.run(segment, feeds)
                runs += 1
            times_s[device_id] = (time.perf_counter() - start_s) / max(runs, 1)
        except BaseException as error:  # re-raised in the thread that waits for this one
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=item, daemon=True, name="trisect-contention") for item in hosts.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {device_id: times_s[device_id] for device_id in hosts}
