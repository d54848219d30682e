"""Measures devices by running small models on them, through the same protocol that a session uses.

What is known already is kept, so that measuring can be interrupted and gone on with, and a device added later costs
only its own time.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trisect.runtime.devices import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed

from .cases import Case, cases, tiny_chain
from .links import measure_link
from .machine import peak_flops, read_bandwidth_bytes_per_s
from .profile import DeviceProfile, Link, Point, Profile
from .provenance import provenance

Progress = Callable[[int, int, str], None]
"""Called with the steps done, all steps, and what comes next."""

_CHAIN = 33
_SMALLEST_S = 1e-8


@dataclass(frozen=True)
class Timing:
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
    progress: Progress | None = None,
) -> Profile:
    """Measure devices and the links between them.

    Parameters
    ----------
    devices : sequence of Device
    budget_s : float
        After so long no further case is begun. Overheads, links and roofs are measured whatever the budget; cases go
        round the classes, so that a short measurement still knows something of each.
    precision : str
        ``float32`` or ``fast``.
    threads : int, optional
        Of each engine; None = its default.
    known : Profile, optional
        An earlier measurement: what it holds of the same engines' versions, precision and threads is not repeated.
    progress : callable, optional

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
    origin = provenance(devices, threads)
    options = LoadOptions(threads=threads, precision=precision)
    earlier = known if known is not None and _fits(known, precision, threads) else None
    work = cases()
    total, done = len(devices) * (len(work) + 1), 0

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    profiles: dict[str, DeviceProfile] = {}
    base_s: dict[str, float] = {}
    for device in devices:
        step(f"{device.id} overheads")
        profiles[device.id] = _known_device(earlier, device) or _begin(device, options)
        base_s[device.id] = _bound(tiny_chain(1), device, options).median_s - profiles[device.id].node_overhead_s
    links = _links(devices, earlier, options)
    bandwidth = earlier.read_bandwidth_bytes_per_s if earlier is not None else None
    if bandwidth is None:
        bandwidth = read_bandwidth_bytes_per_s()
    for case in work:
        for device in devices:
            step(f"{device.id} {case.name}")
            if time.monotonic() - started_s < budget_s:
                profiles[device.id] = _with_case(profiles[device.id], case, device, options, base_s[device.id])
    if progress is not None:
        progress(total, total, "done")
    kept = {} if earlier is None else {key: value for key, value in earlier.devices.items() if key not in profiles}
    return Profile(origin, precision, {**kept, **profiles}, links, bandwidth)


def time_calls(call: Callable[[], object], *, lasting_s: float = 0.08, fewest: int = 5, most: int = 500) -> Timing:
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
    return Timing(float(middle), float((high - low) / middle) if middle > 0 else 0.0)


def _begin(device: Device, options: LoadOptions) -> DeviceProfile:
    one, chain = tiny_chain(1), tiny_chain(_CHAIN)
    module = load(one.build(), device, options)
    try:
        feeds = {"x": one.feed()}
        call_s = time_calls(lambda: module.run(feeds)).median_s
    finally:
        module.close()
    node_s = (_bound(chain, device, options).median_s - _bound(one, device, options).median_s) / (_CHAIN - 1)
    return DeviceProfile(
        device.id, device.name, device.engine_version, call_overhead_s=call_s,
        node_overhead_s=max(node_s, _SMALLEST_S), peak_flops=peak_flops(device, options),
    )  # fmt: skip


def _with_case(
    profile: DeviceProfile, case: Case, device: Device, options: LoadOptions, base_s: float
) -> DeviceProfile:
    """The profile with one case more; ``base_s`` is what a call takes beyond its operators, and is left out."""
    if case.name in profile.refused or any(point.case == case.name for point in profile.points):
        return profile
    try:
        timing = _bound(case, device, options)
    except EngineFailed as error:
        return replace(profile, refused={**profile.refused, case.name: error.message})
    time_s = max((timing.median_s - base_s) / case.repeats, profile.node_overhead_s)
    point = Point(case.name, case.op_class, case.op_type, case.flops, case.size_bytes, time_s, timing.spread)
    return replace(profile, points=(*profile.points, point))


def _bound(case: Case, device: Device, options: LoadOptions) -> Timing:
    """Time a case with its buffers fixed: inside a segment no operator gets fresh memory from the system either."""
    module = load(case.build(), device, options)
    try:
        binding = module.bind({"x": case.feed()}, {"y": np.empty(case.output_shape, np.float32)})
        return time_calls(binding.run)
    finally:
        module.close()


def _links(devices: Sequence[Device], earlier: Profile | None, options: LoadOptions) -> tuple[Link, ...]:
    found = {(link.source, link.target): link for link in (earlier.links if earlier is not None else ())}
    for source in devices:
        for target in devices:
            if source.id != target.id and (source.id, target.id) not in found:
                found[source.id, target.id] = measure_link(source, target, options)
    return tuple(found.values())


def _fits(known: Profile, precision: str, threads: int | None) -> bool:
    origin = known.provenance
    here = (platform.node(), "measured", threads)
    return (origin.host, origin.source, origin.threads) == here and known.precision == precision


def _known_device(earlier: Profile | None, device: Device) -> DeviceProfile | None:
    found = None if earlier is None else earlier.devices.get(device.id)
    same = found is not None and (found.name, found.engine_version) == (device.name, device.engine_version)
    return found if same else None
