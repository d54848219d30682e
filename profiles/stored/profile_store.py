"""Profiles on disk: validated when read, written atomically, and never written over a file that cannot be read."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidProfile, StorageFailed
from trisect.runtime.files.cache_files import not_cached, updating

from .profile_data import SCHEMA, Contention, DeviceProfile, Link, Profile
from .versioned_json import invalid_figure, read_versioned

PROFILES_VARIABLE = "TRISECT_PROFILES"
"""Environment variable with the folder of profiles."""
_SIZE_LIMIT_BYTES = 64 << 20

_not_stored: dict[Path, Profile] = {}
"""What could not be written, by path."""
_Row = TypeVar("_Row", bound=Link | Contention)


def default_path(precision: str = "float32") -> Path:
    """Return the path of this machine's profile: in ``TRISECT_PROFILES`` or the user's cache folder."""
    named = os.environ.get(PROFILES_VARIABLE)
    folder = Path(named) if named else Path(platformdirs.user_cache_dir("trisect")) / "profiles"
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "here"
    return folder / f"{host}-{precision}.json"


def calibrations_path() -> Path:
    """Return the path of the measured times of whole models on this machine."""
    return default_path().with_suffix(".whole-models.json")


def save(profile: Profile, path: Path) -> None:
    """Write a profile.

    Raises
    ------
    InvalidProfile
        For impossible figures, or where the existing file is not a profile or of a newer version: it is left as it is.
    StorageFailed
        Disk full or no permission; nothing half-written is left.
    """
    for figure in _impossible_figures(profile):
        raise InvalidProfile(f"an impossible figure was measured: {figure}", remedy="run `trisect profile` again")
    if os.path.exists(path):
        load(path)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))


def update(profile: Profile, path: Path, measured: Collection[str]) -> Profile:
    """Write the measurements of some devices, and keep what other processes have stored meanwhile.

    Parameters
    ----------
    profile : Profile
        May contain earlier measurements of other devices.
    measured : collection of str
        Ids of the devices that were measured.

    Returns
    -------
    Profile
        As it is stored.

    Raises
    ------
    InvalidProfile, StorageFailed
        As `save`, or when another process does not end writing.
    """
    with updating(path):
        if os.path.exists(path):
            stored = load(path)
            if _is_foreign(stored, profile.provenance.host):
                os.replace(path, prior_path(path))
            else:
                profile = _merged(stored, profile, measured)
        save(profile, path)
    return profile


def update_if_possible(profile: Profile, path: Path, measured: Collection[str]) -> Profile:
    """As `update`, but where the file cannot be written, only log that: the profile then serves this process.

    Raises
    ------
    InvalidProfile
        As `save`.
    """
    try:
        return update(profile, path, measured)
    except StorageFailed as error:
        not_cached("the profile of this machine", error)
        _not_stored[path] = profile
        return profile


def _merged(stored: Profile, new: Profile, measured: Collection[str]) -> Profile:
    """Return what is stored, and of the new profile the devices that were measured, and all about pairs of these."""
    origins = [(p.provenance.host, p.provenance.source, p.provenance.threads, p.precision) for p in (stored, new)]
    if origins[0] != origins[1]:
        return new
    devices = {**new.devices, **stored.devices}
    for name in measured:
        if name in new.devices:
            devices[name] = _joined(stored.devices.get(name), new.devices[name])
    return replace(
        new,
        provenance=replace(new.provenance, engines={**stored.provenance.engines, **new.provenance.engines}),
        devices=devices,
        links=_rows(new.links, stored.links, measured, lambda row: (row.source, row.target)),
        contention=_rows(new.contention, stored.contention, measured, _contention_key),
        read_bandwidth_bytes_per_s=new.read_bandwidth_bytes_per_s or stored.read_bandwidth_bytes_per_s,
    )


def _rows(
    new: Iterable[_Row], stored: Iterable[_Row], measured: Collection[str], key: Callable[[_Row], tuple[str, ...]]
) -> tuple[_Row, ...]:
    """Return the rows about pairs of devices: new ones where both were measured, else those that are stored."""
    rows: dict[tuple[str, ...], _Row] = {key(added): added for added in new}
    for row in stored:
        if not {*key(row)[:2]} <= {*measured} or key(row) not in rows:
            rows[key(row)] = row
    return tuple(rows.values())


def _contention_key(row: Contention) -> tuple[str, ...]:
    return row.device, row.beside, row.executor, row.op_class


def _joined(stored: DeviceProfile | None, new: DeviceProfile) -> DeviceProfile:
    """Return new figures of a device, with the cases that another process measured with the same engine."""
    if stored is None or (stored.name, stored.engine_version) != (new.name, new.engine_version):
        return new
    cases = {point.case for point in new.points} | set(new.refused)
    beside = {point.beside for point in new.wakeups}
    return msgspec.structs.replace(
        new,
        points=(*new.points, *(point for point in stored.points if point.case not in cases)),
        refused={**{case: why for case, why in stored.refused.items() if case not in cases}, **new.refused},
        power_w=new.power_w if new.power_w is not None else stored.power_w,
        memory=new.memory or stored.memory,
        wakeups=(*new.wakeups, *(point for point in stored.wakeups if point.beside not in beside)),
    )


def load(path: Path) -> Profile:
    """Read a profile; older versions lack what was added since, and are otherwise the same.

    Raises
    ------
    InvalidProfile
        For a file that is missing, malformed, of a newer version, or holds impossible figures.
    """
    profile = read_versioned(path, Profile, schema=SCHEMA, oldest=0, max_bytes=_SIZE_LIMIT_BYTES)
    assert profile is not None
    for figure in _impossible_figures(profile):
        raise invalid_figure(path, figure)
    return replace(profile, schema=SCHEMA)


def load_own(path: Path) -> Profile | None:
    """Read this machine's profile; None where there is none, or only one of another machine (see `load_prior`).

    Raises
    ------
    InvalidProfile
        As in `load`.
    """
    if not os.path.exists(path):
        return _not_stored.get(path)
    profile = load(path)
    return _not_stored.get(path) if _is_foreign(profile, platform.node()) else profile


def prior_path(path: Path) -> Path:
    """Return where a profile of another machine is moved when it is in the place of this machine's."""
    return path.with_suffix(".prior.json")


def load_prior(path: Path) -> Profile | None:
    """Read the profile of another machine that is, or was, in the place of this machine's; None where there is none.

    Raises
    ------
    InvalidProfile
        As in `load`.
    """
    for place in (path, prior_path(path)):
        if os.path.exists(place):
            profile = load(place)
            if _is_foreign(profile, platform.node()):
                return profile
    return None


def _is_foreign(profile: Profile, here: str) -> bool:
    """Return whether a profile was measured on another machine than this one."""
    host = profile.provenance.host
    return profile.provenance.source == "measured" and bool(host) and host != here


def _impossible_figures(profile: Profile) -> Iterator[str]:
    """Describe the figures that no measurement can give."""
    for key, device in profile.devices.items():
        if key != device.device:
            yield f"device {key!r} is called {device.device!r}"
        yield from _impossible_device_figures(device)
    for link in profile.links:
        bandwidth = link.bandwidth_bytes_per_s
        if not (_non_negative(link.latency_s) and (bandwidth is None or _positive(bandwidth))):
            yield f"link {link.source} to {link.target}"
    for row in profile.contention:
        if not (_positive(row.alone_s) and _positive(row.together_s)):
            yield f"contention of {row.device} with {row.beside}"


def _impossible_device_figures(device: DeviceProfile) -> Iterator[str]:
    for point in device.points:
        if not (_positive(point.time_s) and point.size_bytes >= 0 and _non_negative(point.flops)):
            yield f"{device.device}, {point.case}"
    if any(min(row.weights_bytes, row.tensors_bytes, row.resident_bytes) < 0 for row in device.memory):
        yield f"memory of {device.device}"
    if not (_positive(device.call_overhead_s) and _non_negative(device.node_overhead_s)):
        yield f"overheads of {device.device}"
    if not all(_positive(time_s) for row in device.wakeups for time_s in (row.idle_s, row.cold_s, row.warm_s)):
        yield f"wake-up costs of {device.device}"


def _positive(value: float) -> bool:
    return isfinite(value) and value > 0


def _non_negative(value: float) -> bool:
    return isfinite(value) and value >= 0
