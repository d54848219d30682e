"""Measures devices by running small models on them, through the same protocol that a session uses.

What is known already is kept, so that measuring can be interrupted and gone on with, and a device added later costs
only its own time. What would take a slow device (a simulator) longer than it is worth is left out.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest

import msgspec
import numpy as np
import psutil

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..stored.profile_data import Contention, DeviceProfile, Link, Point, Profile, Provenance
from ..stored.provenance import provenance
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
"""So many cases stand for one of each class: only then it is worth knowing how devices get along."""
_SMALLEST_S = 1e-8
_PRODUCT_SIZE = 1024
_LONGEST_RUN_S = 0.5
_MOST_SIMULATED_BYTES = 8 << 20
_FEWEST_SIMULATED = 3
_AMPLE_S = 10.0
"""A budget from which on the largest transfers are measured too."""
_LOADS = 3


@dataclass(frozen=True)
class CallTiming:
    """Of repeated calls."""

    median_s: float
    spread: float
    """Interquartile range as a share of the median."""


def measure(
    devices: Sequence[Device],
    *,
    budget_s: float = 60.0,
    precision: str = "float32",
    threads: int | None = None,
    known: Profile | None = None,
    wanted: Sequence[OperatorCase] = (),
    progress: Progress = no_progress,
    keep: Callable[[Profile], None] | None = None,
) -> Profile:
    """Measure devices and the links between them.

    Parameters
    ----------
    devices : sequence of Device
    budget_s : float
        After so long no further case is begun. Overheads, links, roofs and one case of each device are measured
        whatever the budget (0 = no case at all); cases go round the classes, so that a short measurement still knows
        something of each.
    precision : str
        ``float32`` or ``fast``.
    threads : int, optional
        Of each engine; None = its default.
    known : Profile, optional
        An earlier measurement: what it holds of the same engines' versions, precision and threads is not repeated.
    wanted : sequence of OperatorCase
        Measured before the standard ones: a model's own operators.
    progress : callable, optional
    keep : callable, optional
        Given what is measured so far when the user interrupts.

    Returns
    -------
    Profile
        With the known profile's other devices.

    Raises
    ------
    EngineFailed
        For a device that cannot even run the smallest model. One that refuses some operators is not an error:
        the profile says so.
    """
    started_s = time.monotonic()
    options = LoadOptions(threads=threads, precision=precision)
    earlier = known if known is not None and _fits(known, precision, threads) else None
    work = [[*wanted, *(standard_cases() if device.is_real else small_cases())] for device in devices]
    pairs = len(contending_pairs(devices)) * len(EXECUTORS)
    total, done = sum(len(row) + 1 for row in work) + len(devices) + pairs, 0
    state = _State(provenance(devices, threads), precision, earlier)

    def step(what: str) -> None:
        nonlocal done
        progress(done, total, what)
        done += 1

    try:
        base_s: dict[str, float] = {}
        for device in devices:
            step(f"{device.id} overheads")
            begun = state.known(device) or _begin(device, options)
            state.devices[device.id] = begun
            base_s[device.id] = _bound(tiny_chain(1), device, options).median_s - begun.node_overhead_s
        _links(devices, state.links, options, budget_s)
        add_wakeups(devices, state.devices, options)
        if state.bandwidth is None:
            state.bandwidth = read_bandwidth_bytes_per_s()
        for number, turn in enumerate(zip_longest(*work)):
            if number == len(wanted) + _CLASSES and time.monotonic() - started_s < budget_s:
                _memory(devices, state.devices, options, step)
                _contention(devices, state.contention, options, step)
            for device, case in zip(devices, turn, strict=True):
                if case is None:
                    continue
                step(f"{device.id} {case.name}")
                sofar = state.devices[device.id]
                is_time = time.monotonic() - started_s < budget_s or (budget_s > 0 and not sofar.points)
                if is_time and _is_worth_it(case, device, sofar):
                    state.devices[device.id] = _with_case(sofar, case, device, options, base_s[device.id])
    except KeyboardInterrupt:
        if keep is not None and state.devices:
            keep(state.profile())
        raise
    progress(total, total, "done")
    return state.profile()


@dataclass
class _State:
    """What is measured so far."""

    origin: Provenance
    precision: str
    earlier: Profile | None
    devices: dict[str, DeviceProfile] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(init=False)
    bandwidth: float | None = field(init=False)
    contention: dict[tuple[str, str, str], tuple[Contention, ...]] = field(init=False)
    """Of a pair of devices and an executor."""

    def __post_init__(self) -> None:
        links = self.earlier.links if self.earlier is not None else ()
        self.links = {(link.source, link.target): link for link in links}
        self.bandwidth = self.earlier.read_bandwidth_bytes_per_s if self.earlier is not None else None
        self.contention = {}
        for row in self.earlier.contention if self.earlier is not None else ():
            key = min(row.device, row.beside), max(row.device, row.beside), row.executor
            self.contention[key] = (*self.contention.get(key, ()), row)

    def known(self, device: Device) -> DeviceProfile | None:
        """What an earlier measurement says of a device that is still the same."""
        found = None if self.earlier is None else self.earlier.devices.get(device.id)
        same = found is not None and (found.name, found.engine_version) == (device.name, device.engine_version)
        return found if same else None

    def profile(self) -> Profile:
        kept = {} if self.earlier is None else dict(self.earlier.devices)
        return Profile(
            self.origin, self.precision, {**kept, **self.devices}, tuple(self.links.values()), self.bandwidth,
            tuple(row for rows in self.contention.values() for row in rows),
        )  # fmt: skip


def time_calls(call: Callable[[], object], *, lasting_s: float = 0.08, fewest: int = 5, most: int = 500) -> CallTiming:
    """Call again and again, after two calls to warm up; median and spread.

    Examples
    --------
    >>> time_calls(lambda: None, lasting_s=0.0).median_s < 1
    True
    """
    call()
    call()
    times: list[float] = []
    end_s = time.perf_counter() + lasting_s
    while len(times) < fewest or (len(times) < most and time.perf_counter() < end_s):
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    low, middle, high = np.percentile(times, (25, 50, 75))
    return CallTiming(float(middle), float((high - low) / middle) if middle > 0 else 0.0)


def _begin(device: Device, options: LoadOptions) -> DeviceProfile:
    one, chain = tiny_chain(1), tiny_chain(_CHAIN)
    module = load(one.build(), device, options)
    try:
        feeds = one.feeds()
        call_s = time_calls(lambda: module.run(feeds)).median_s
    finally:
        module.close()
    node_s = (_bound(chain, device, options).median_s - _bound(one, device, options).median_s) / (_CHAIN - 1)
    load_s, _ = _loading(one, device, options)
    chain_load_s, load_bytes = _loading(chain, device, options)
    return DeviceProfile(
        device.id, device.name, device.engine_version, call_overhead_s=call_s,
        node_overhead_s=max(node_s, _SMALLEST_S), peak_flops=peak_flops(device, options),
        power_w=_power_w(device, options), load_s=load_s,
        node_load_s=max(chain_load_s - load_s, 0.0) / (_CHAIN - 1), load_bytes=load_bytes,
    )  # fmt: skip


def _loading(case: OperatorCase, device: Device, options: LoadOptions) -> tuple[float, int]:
    """Median seconds of loading a model, and the memory that it takes once it has run."""
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
    """Drawn at a large product: what works hardest."""
    if not can_measure_power(device):
        return None
    case = square_matmul(_PRODUCT_SIZE)
    module = load(case.build(), device, options)
    try:
        return power_w(device, module.bind(case.feeds(), case.buffers()).run)
    finally:
        module.close()


def _is_worth_it(case: OperatorCase, device: Device, profile: DeviceProfile) -> bool:
    """Whether a run takes seconds, not minutes; what is no hardware is not given weights that it compiles for long."""
    flops, size_bytes = case.weight
    if profile.peak_flops is not None and flops / profile.peak_flops > _LONGEST_RUN_S:
        return False
    return device.is_real or size_bytes <= _MOST_SIMULATED_BYTES


def _with_case(
    profile: DeviceProfile, case: OperatorCase, device: Device, options: LoadOptions, base_s: float
) -> DeviceProfile:
    """The profile with one case more; ``base_s`` is what a call takes beyond its operators, and is left out.

    A case that the device refuses is tried in its other forms: the profile then holds both the refusal and a point.
    """
    if case.name in profile.refused or any(_is_of(point, case) for point in profile.points):
        return profile
    for form in (case, *case_variants(case)):
        try:
            timing = _bound(form, device, options)
        except EngineFailed as error:
            if form is case:
                profile = msgspec.structs.replace(profile, refused={**profile.refused, case.name: error.message})
            continue
        time_s = max((timing.median_s - base_s) / case.repeats, profile.node_overhead_s)
        point = Point(form.name, case.op_class, case.op_type, case.flops, case.size_bytes, time_s, timing.spread)
        return msgspec.structs.replace(profile, points=(*profile.points, point))
    return profile


def _is_of(point: Point, case: OperatorCase) -> bool:
    return point.case == case.name or point.case.startswith(case.name + VARIANT_SEPARATOR)


def _bound(case: OperatorCase, device: Device, options: LoadOptions) -> CallTiming:
    """Time a case with its buffers fixed: inside a segment no operator gets fresh memory from the system either."""
    module = load(case.build(), device, options)
    try:
        run = module.bind(case.feeds(), case.buffers()).run
        return time_calls(run) if device.is_real else time_calls(run, fewest=_FEWEST_SIMULATED)
    finally:
        module.close()


def _links(
    devices: Sequence[Device], known: dict[tuple[str, str], Link], options: LoadOptions, budget_s: float
) -> None:
    """Add what is not known yet; the largest tensors only where there is time and the devices are hardware."""
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


def _memory(
    devices: Sequence[Device],
    known: dict[str, DeviceProfile],
    options: LoadOptions,
    step: Callable[[str], None],
) -> None:
    """Add what is not known yet; what cannot be seen from here, or a device refuses, is not measured."""
    for device in devices:
        step(f"{device.id} memory")
        if not known[device.id].memory and not has_own_memory(device):
            with suppress(EngineFailed):
                known[device.id] = msgspec.structs.replace(known[device.id], memory=measure_memory(device, options))


def _contention(
    devices: Sequence[Device],
    known: dict[tuple[str, str, str], tuple[Contention, ...]],
    options: LoadOptions,
    step: Callable[[str], None],
) -> None:
    """Add what is not known yet of pairs that share their cores."""
    for pair in contending_pairs(devices):
        first, second = sorted(device.id for device in pair)
        for executor in EXECUTORS:
            if (first, second, executor) not in known:
                step(f"{first} and {second} at once, in {executor}")
                known[first, second, executor] = measure_contention(pair, options, executor)


def _fits(known: Profile, precision: str, threads: int | None) -> bool:
    origin = known.provenance
    here = (platform.node(), "measured", threads)
    return (origin.host, origin.source, origin.threads) == here and known.precision == precision
