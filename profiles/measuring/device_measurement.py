"""Measures devices by running small models on them, through the same engine interface that a session uses.

Earlier measurements are reused, so that an interrupted measurement can be resumed, and a device added later costs only
its own time. Cases that would take too long on a slow device (a simulator) are left out.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest

import msgspec
import psutil

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..drift.device_changes import check_still_runs, is_still_valid, with_slowdown
from ..drift.speed_probe import probe_time_s
from ..stored.profile_data import Contention, DeviceProfile, Link, Point, Profile, Provenance
from ..stored.provenance import provenance
from .call_timing import CallTiming, time_calls
from .case_variants import VARIANT_SEPARATOR, case_variants
from .contention import EXECUTORS, contending_pairs, measure_contention
from .link_measurement import LARGE_BYTES, SIZES_BYTES, measure_link
from .machine_limits import peak_flops, read_bandwidth_bytes_per_s
from .memory_measurement import has_own_memory, measure_memory
from .operator_cases import OperatorCase, small_cases, square_matmul, standard_cases, tiny_chain
from .power import can_measure_power, power_w
from .wakeup_measurement import add_wakeups

_CHAIN = 33
_CLASSES = 8
"""Number of cases that cover each class once; memory and contention are measured after these."""
_MIN_S = 1e-8
_PRODUCT_SIZE = 1024
_MAX_RUN_S = 0.5
_MAX_SIMULATED_BYTES = 8 << 20
_MIN_SIMULATED_RUNS = 3
_AMPLE_S = 10.0
"""Budget from which standard cases are measured, rather than small ones, and the largest transfers."""
ASPECTS = frozenset({"memory", "contention", "bandwidth"})
"""What is measured beside operators, calls, links and wake-ups, in seconds each: only some objectives need it."""
_LOADS = 3


def measure(
    devices: Sequence[Device],
    *,
    budget_s: float = 60.0,
    precision: str = "float32",
    threads: int | None = None,
    known: Profile | None = None,
    model_cases: Sequence[OperatorCase] = (),
    aspects: Collection[str] = ASPECTS,
    progress: Progress = no_progress,
    on_interrupt: Callable[[Profile], object] | None = None,
) -> Profile:
    """Measure devices and the links between them.

    Parameters
    ----------
    devices : sequence of Device
    budget_s : float
        No further case is started after this time. Overheads, links, roofline limits and one case of each device are
        measured regardless (0 = no case at all); cases alternate between the classes, so that a short measurement
        covers as many as possible. Within less than ten seconds they are small.
    precision : str
        ``float32`` or ``fast``.
    threads : int, optional
        Of each engine; None = its default.
    known : Profile, optional
        An earlier measurement; its figures of the same engine versions, precision and threads are reused.
    model_cases : sequence of OperatorCase
        A model's own operators, measured before the standard cases.
    aspects : collection of str
        Which of `ASPECTS` to measure.
    progress : callable, optional
    on_interrupt : callable, optional
        Called with the measurements so far when the user interrupts, or a device fails.

    Returns
    -------
    Profile
        Including the other devices of `known`.

    Raises
    ------
    EngineFailed
        For a device that cannot run the smallest model, as `DeviceLost` where it could before. Operators that a device
        refuses are listed in the profile.
    """
    start_s = time.monotonic()
    options = LoadOptions(threads=threads, precision=precision)
    earlier = known if known is not None and _is_comparable(known, precision, threads) else None
    are_small = 0 < budget_s < _AMPLE_S
    cases = [
        [*model_cases, *(small_cases() if are_small or not device.is_real else standard_cases())] for device in devices
    ]
    pairs = len(contending_pairs(devices)) * len(EXECUTORS)
    total, done = sum(len(row) + 1 for row in cases) + len(devices) + pairs, 0
    measured = _Measurements(provenance(devices, threads), precision, earlier)
    probes_s: dict[str, float] = {}

    def step(what: str) -> None:
        nonlocal done
        progress(done, total, what)
        done += 1

    try:
        base_s: dict[str, float] = {}
        for device in devices:
            step(f"{device.id} overheads")
            if device.is_real:
                probes_s[device.id] = probe_time_s(device, options)
            probe_s = probes_s.get(device.id)
            overheads = measured.known(device, probe_s) or _measure_overheads(device, options, probe_s)
            measured.devices[device.id] = overheads
            base_s[device.id] = _time_case(tiny_chain(1), device, options).median_s - overheads.node_overhead_s
        _measure_links(devices, measured.links, options, budget_s)
        add_wakeups(devices, measured.devices, options)
        if measured.bandwidth is None and "bandwidth" in aspects:
            measured.bandwidth = read_bandwidth_bytes_per_s()
        for number, row in enumerate(zip_longest(*cases)):
            if number == len(model_cases) + _CLASSES and time.monotonic() - start_s < budget_s:
                if "memory" in aspects:
                    _measure_memory(devices, measured.devices, options, step)
                if "contention" in aspects:
                    _measure_contention(devices, measured.contention, options, step)
            for device, case in zip(devices, row, strict=True):
                if case is None:
                    continue
                step(f"{device.id} {case.name}")
                profile = measured.devices[device.id]
                # Without any figure for a class, no model with such an operator could be planned.
                is_missing = budget_s > 0 and all(point.op_class is not case.op_class for point in profile.points)
                is_in_time = time.monotonic() - start_s < budget_s or is_missing
                if is_in_time and _is_affordable(case, device, profile):
                    measured.devices[device.id] = _with_case(profile, case, device, options, base_s[device.id])
        for device in devices:
            measured.devices[device.id] = with_slowdown(measured.devices[device.id], device, options, probes_s)
    except (KeyboardInterrupt, EngineFailed):
        if on_interrupt is not None and measured.devices:
            on_interrupt(measured.profile())
        raise
    progress(total, total, "done")
    return measured.profile()


@dataclass
class _Measurements:
    """The measurements so far."""

    origin: Provenance
    precision: str
    earlier: Profile | None
    devices: dict[str, DeviceProfile] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(init=False)
    bandwidth: float | None = field(init=False)
    contention: dict[tuple[str, str, str], tuple[Contention, ...]] = field(init=False)
    """Key: ids of a pair of devices, and the executor."""

    def __post_init__(self) -> None:
        links = self.earlier.links if self.earlier is not None else ()
        self.links = {(link.source, link.target): link for link in links}
        self.bandwidth = self.earlier.read_bandwidth_bytes_per_s if self.earlier is not None else None
        self.contention = {}
        for row in self.earlier.contention if self.earlier is not None else ():
            key = min(row.device, row.beside), max(row.device, row.beside), row.executor
            self.contention[key] = (*self.contention.get(key, ()), row)

    def known(self, device: Device, probe_s: float | None) -> DeviceProfile | None:
        """Return the earlier profile of a device; None where the device, its engine or its speed has changed."""
        profile = None if self.earlier is None else self.earlier.devices.get(device.id)
        return profile if profile is not None and is_still_valid(profile, device, probe_s) else None

    def profile(self) -> Profile:
        """Return the measurements, including the earlier ones of other devices."""
        others = {} if self.earlier is None else dict(self.earlier.devices)
        contention = tuple(row for rows in self.contention.values() for row in rows)
        links = tuple(self.links.values())
        return Profile(self.origin, self.precision, {**others, **self.devices}, links, self.bandwidth, contention)


def _measure_overheads(device: Device, options: LoadOptions, probe_s: float | None) -> DeviceProfile:
    one, chain = tiny_chain(1), tiny_chain(_CHAIN)
    module = load(one.build(), device, options)
    try:
        feeds = one.feeds()
        call_s = time_calls(lambda: module.run(feeds)).median_s
    finally:
        module.close()
    node_s = (_time_case(chain, device, options).median_s - _time_case(one, device, options).median_s) / (_CHAIN - 1)
    load_s, _ = _measure_load(one, device, options)
    chain_load_s, load_bytes = _measure_load(chain, device, options)
    return DeviceProfile(
        device.id, device.name, device.engine_version, call_overhead_s=call_s,
        node_overhead_s=max(node_s, _MIN_S), peak_flops=peak_flops(device, options),
        power_w=_power_w(device, options), load_s=load_s,
        node_load_s=max(chain_load_s - load_s, 0.0) / (_CHAIN - 1), load_bytes=load_bytes,
        probe_s=probe_s, date=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _measure_load(case: OperatorCase, device: Device, options: LoadOptions) -> tuple[float, int]:
    """Return the median seconds of loading a model, and the memory that it takes after a run."""
    process = psutil.Process()
    times_s, grown = [], []
    for _ in range(_LOADS):
        before = process.memory_info().rss
        start_s = time.perf_counter()
        module = load(case.build(), device, options)
        times_s.append(time.perf_counter() - start_s)
        try:
            module.run(case.feeds())
            grown.append(process.memory_info().rss - before)
        finally:
            module.close()
    return statistics.median(times_s), max(0, round(statistics.median(grown)))


def _power_w(device: Device, options: LoadOptions) -> float | None:
    """Return the power during a large matrix product, the highest load."""
    if not can_measure_power(device):
        return None
    case = square_matmul(_PRODUCT_SIZE)
    module = load(case.build(), device, options)
    try:
        return power_w(device, module.bind(case.feeds(), case.buffers()).run)
    finally:
        module.close()


def _is_affordable(case: OperatorCase, device: Device, profile: DeviceProfile) -> bool:
    """Return whether a run takes less than half a second, and a simulator compiles the weights fast enough."""
    flops, size_bytes = case.run_cost
    if profile.peak_flops is not None and flops / profile.peak_flops > _MAX_RUN_S:
        return False
    return device.is_real or size_bytes <= _MAX_SIMULATED_BYTES


def _with_case(
    profile: DeviceProfile, case: OperatorCase, device: Device, options: LoadOptions, base_s: float
) -> DeviceProfile:
    """Return the profile with one more case; ``base_s`` is the overhead of a call, which is subtracted.

    Variants of a refused case are tried: the profile then holds both the refusal and a point.
    """
    if case.name in profile.refused or any(_belongs_to(point, case) for point in profile.points):
        return profile
    for variant in (case, *case_variants(case)):
        try:
            timing = _time_case(variant, device, options)
        except EngineFailed as error:
            check_still_runs(device, options)  # otherwise the failure says nothing of the operator
            if variant is case:
                profile = msgspec.structs.replace(profile, refused={**profile.refused, case.name: error.message})
            continue
        time_s = max((timing.median_s - base_s) / case.repeats, profile.node_overhead_s)
        point = Point(variant.name, case.op_class, case.op_type, case.flops, case.size_bytes, time_s, timing.spread)
        return msgspec.structs.replace(profile, points=(*profile.points, point))
    return profile


def _belongs_to(point: Point, case: OperatorCase) -> bool:
    return point.case == case.name or point.case.startswith(case.name + VARIANT_SEPARATOR)


def _time_case(case: OperatorCase, device: Device, options: LoadOptions) -> CallTiming:
    """Time a case with bound buffers: inside a segment, operators get no fresh memory from the system either."""
    module = load(case.build(), device, options)
    try:
        run = module.bind(case.feeds(), case.buffers()).run
        return time_calls(run) if device.is_real else time_calls(run, min_runs=_MIN_SIMULATED_RUNS)
    finally:
        module.close()


def _measure_links(
    devices: Sequence[Device], known: dict[tuple[str, str], Link], options: LoadOptions, budget_s: float
) -> None:
    """Measure links that are not known yet; the largest tensors only within an ample budget, on hardware."""
    for source in devices:
        for target in devices:
            if source.id == target.id or (source.id, target.id) in known:
                continue
            sizes: tuple[int, ...] = SIZES_BYTES
            if not (source.is_real and target.is_real):
                sizes = SIZES_BYTES[:-1]
            elif budget_s >= _AMPLE_S:
                sizes = (*SIZES_BYTES, LARGE_BYTES)
            known[source.id, target.id] = measure_link(source, target, options, sizes)


def _measure_memory(
    devices: Sequence[Device],
    known: dict[str, DeviceProfile],
    options: LoadOptions,
    step: Callable[[str], None],
) -> None:
    """Measure memory that is not known yet; not of devices with memory of their own, or that refuse the models."""
    for device in devices:
        step(f"{device.id} memory")
        if not known[device.id].memory and not has_own_memory(device):
            with suppress(EngineFailed):
                known[device.id] = msgspec.structs.replace(known[device.id], memory=measure_memory(device, options))


def _measure_contention(
    devices: Sequence[Device],
    known: dict[tuple[str, str, str], tuple[Contention, ...]],
    options: LoadOptions,
    step: Callable[[str], None],
) -> None:
    """Measure contention that is not known yet, for pairs of devices on the same cores."""
    for pair in contending_pairs(devices):
        first, second = sorted(device.id for device in pair)
        for executor in EXECUTORS:
            if (first, second, executor) not in known:
                step(f"{first} and {second} at once, in {executor}")
                known[first, second, executor] = measure_contention(pair, options, executor)


def _is_comparable(known: Profile, precision: str, threads: int | None) -> bool:
    origin = known.provenance
    here = (platform.node(), "measured", threads)
    return (origin.host, origin.source, origin.threads) == here and known.precision == precision
