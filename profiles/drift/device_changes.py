"""Notices devices that have changed since they were measured, or that slow down or stop working meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime

import msgspec

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import DeviceLost, EngineFailed

from ..measuring.operator_cases import tiny_chain
from ..stored.profile_data import DeviceProfile
from .drift_factor import RENEWAL_RATIO, drift, is_changed, is_outdated
from .speed_probe import probe_time_s


def is_still_valid(profile: DeviceProfile, device: Device, probe_s: float | None) -> bool:
    """Return whether a device is as it was measured: neither replaced, nor updated, nor much faster or slower.

    Parameters
    ----------
    probe_s : float or None
        Seconds of its probe at present; None = unknown.
    """
    if (profile.name, profile.engine_version) != (device.name, device.engine_version):
        return False
    if is_changed(profile.slowed, RENEWAL_RATIO):
        return False
    return not profile.date or not is_outdated(profile.date, datetime.now(UTC), drift(profile.probe_s, probe_s))


def with_slowdown(
    profile: DeviceProfile, device: Device, options: LoadOptions, probes_s: Mapping[str, float]
) -> DeviceProfile:
    """Return a profile with the factor by which the device has become slower since its measurement began.

    Parameters
    ----------
    probes_s : mapping of str to float
        Device id -> seconds of its probe at the beginning. An earlier profile is returned as it is.
    """
    before_s = probes_s.get(device.id)
    if before_s is None or profile.probe_s != before_s:
        return profile
    return msgspec.structs.replace(profile, slowed=drift(before_s, probe_time_s(device, options)))


def check_still_runs(device: Device, options: LoadOptions) -> None:
    """Check that a device, which refused an operator, still runs the smallest model.

    Raises
    ------
    DeviceLost
    """
    case = tiny_chain(1)
    try:
        with closing(load(case.build(), device, options)) as module:
            module.run(case.feeds())
    except EngineFailed as error:
        raise DeviceLost(
            f"{device.id} stopped working while it was measured: {error.reason}",
            remedy="check the device and measure again, or leave it out; what was measured before is stored",
            device=device.id,
        ) from error
