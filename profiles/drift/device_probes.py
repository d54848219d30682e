"""The speed of each device at present: the time of its probe, measured at most once in some minutes, on disk.

A stored time is replaced only when a new one differs clearly. Costs are scaled by it, so the plans of a request change
only when the machine's speed has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from trisect.runtime.device import Device
from trisect.runtime.errors import TrisectError
from trisect.runtime.files.cache_files import read_cache, update_cache

from ..stored.profile_store import default_path
from .drift_factor import IGNORED_RATIO, is_changed

log = logging.getLogger(__name__)

VALID_FOR = timedelta(minutes=10)
"""How long the speed of a device is taken to stay as it was measured."""
_REPETITIONS = 2


class StoredProbe(msgspec.Struct, frozen=True):
    """The time of a device's probe."""

    name: str
    """Of the device."""
    engine_version: str
    time_s: float
    checked: str
    """When the device was last found to be this fast: ISO 8601, UTC."""


def probes_path() -> Path:
    """Return the path of the probe times of this machine."""
    return default_path().with_suffix(".probes.json")


def current_probes_s(
    devices: Sequence[Device], path: Path, measure: Callable[[Device], float], now: datetime | None = None
) -> dict[str, float]:
    """Return the seconds of the probe of each device at present; without devices that cannot be probed.

    Parameters
    ----------
    devices : sequence of Device
    path : Path
        File of earlier probes.
    measure : callable
        Times the probe on a device.
    now : datetime, optional
    """
    here = [device for device in devices if device.is_real and not device.node]
    now = now or datetime.now(UTC)
    known = _read(path)
    probes: dict[str, StoredProbe] = {}
    for device in here:
        earlier = known.get(device.id)
        if earlier is not None and (earlier.name, earlier.engine_version) != (device.name, device.engine_version):
            earlier = None
        if earlier is not None and _is_valid(earlier, now):
            probes[device.id] = earlier
            continue
        try:
            time_s = _shortest_s(device, measure, earlier)
        except TrisectError as error:
            log.warning("the speed of %s is not known: %s", device.id, error)
            continue
        if earlier is not None and not is_changed(time_s / earlier.time_s, IGNORED_RATIO):
            time_s = earlier.time_s
        date = now.isoformat(timespec="seconds")
        probes[device.id] = StoredProbe(device.name, device.engine_version, time_s, date)
    if any(probe is not known.get(device_id) for device_id, probe in probes.items()):
        update_cache(path, lambda: msgspec.json.encode({**_read(path), **probes}), "the speed of devices")
    return {device_id: probe.time_s for device_id, probe in probes.items()}


def _shortest_s(device: Device, measure: Callable[[Device], float], earlier: StoredProbe | None) -> float:
    """Probe a device; again where it seems to have become slower, because other programs may have interfered."""
    time_s = measure(device)
    for _ in range(_REPETITIONS):
        if earlier is None or time_s <= earlier.time_s * IGNORED_RATIO:
            break
        time_s = min(time_s, measure(device))
    return time_s


def _is_valid(probe: StoredProbe, now: datetime) -> bool:
    try:
        return timedelta(0) <= now - datetime.fromisoformat(probe.checked) <= VALID_FOR
    except (ValueError, TypeError):
        return False


def _read(path: Path) -> dict[str, StoredProbe]:
    """Return earlier probes; none where the file is missing or damaged."""
    probes = read_cache(path, dict[str, StoredProbe], "the probes", "devices are probed again") or {}
    return {device_id: probe for device_id, probe in probes.items() if 0 < probe.time_s < float("inf")}
