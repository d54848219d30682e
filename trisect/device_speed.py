"""How fast this machine's devices are at present, compared with when they were measured."""

from __future__ import annotations

from collections.abc import Sequence

from trisect.profiles.drift.device_probes import current_probes_s, probes_path
from trisect.profiles.drift.speed_probe import probe_time_s
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device


def probes_s(profile: Profile, devices: Sequence[Device]) -> dict[str, float]:
    """Return the seconds of each device's probe; none for a profile that was not measured.

    A device is probed at most once in some minutes; see `current_probes_s`.
    """
    if profile.provenance.source != "measured" or not profile.devices:
        return {}
    return current_probes_s(devices, probes_path(), probe_time_s)
