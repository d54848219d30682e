"""What is known of devices: stored, published, or else measured briefly first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.profiles import reference
from trisect.profiles.costmodel.fitted_models import fitted_models
from trisect.profiles.measuring.contention import contending_pairs
from trisect.profiles.measuring.device_measurement import ASPECTS, measure
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import Profile, Provenance
from trisect.profiles.stored.segment_store import segments_path
from trisect.runtime.device import Device
from trisect.runtime.errors import PowerUnknown, ProfileMissing
from trisect.runtime.progress import Progress, no_progress

from . import cluster_devices
from .device_speed import probes_s
from .foreign_profile import with_foreign_times
from .network_fitting import costs_of, store_segments

BRIEF_BUDGET_S, MODELLED_BUDGET_S = 20.0, 4.0
"""How long a split may measure devices that have no profile yet: less where each has a cost model."""
_ASPECTS = {"throughput": "contention", "memory": "memory"}
"""What objectives need beside the times of operators."""

_T = TypeVar("_T")
_EMPTY_PROFILE = Profile(Provenance("measured", "", "", "", "", {}, None), "float32", {}, ())


def stored_profile() -> Profile:
    """Return what was measured on this machine so far; an empty profile where nothing was.

    Raises
    ------
    InvalidProfile
        When the stored profile cannot be read.
    """
    return stored_or_none() or _EMPTY_PROFILE


def with_device_data(
    request: PlanRequest, use: Callable[[DeviceData], _T], progress: Progress = no_progress, *, probe: bool = True
) -> _T:
    """Call a function with what is known of a request's devices: published, stored, or else measured briefly first.

    Parameters
    ----------
    use : callable
        Called again with measurements when it raises `ProfileMissing`.
    probe : bool
        Find out whether the devices have become faster or slower since they were measured. False while they are busy.
    """
    devices = request.devices

    def called(profile: Profile, *, is_new: bool = False) -> _T:
        profile, notes = with_foreign_times(profile, devices)
        power_w = {key: d.power_w for key, d in profile.devices.items() if d.power_w is not None}
        if is_new:
            times_s = {key: d.probe_s for key, d in profile.devices.items() if d.probe_s is not None}
        else:
            times_s = probes_s(profile, devices) if probe else {}
        data = DeviceData(
            costs_of(profile, devices, times_s), power_w, cluster_devices.capabilities(devices),
            store.calibrations_path(), partial(store_segments, devices), times_s, notes,
        )  # fmt: skip
        return use(data)

    if request.machine:
        return called(reference.machine(request.machine).profile)
    aspects = {_ASPECTS[request.objective]} if request.objective in _ASPECTS else set()
    try:
        known = still_valid(stored_profile(), devices)
        if "contention" in aspects and known.devices and not _is_contention_known(known, devices):
            raise ProfileMissing("contention is not measured", remedy="run `trisect profile`")
        return called(known)
    except PowerUnknown:
        raise
    except ProfileMissing:
        if cluster_devices.is_of_cluster(devices):
            return called(cluster_devices.profile(devices, BRIEF_BUDGET_S, progress))
        # Only now: a model that cannot be read must not cost the user the time of measuring.
        stored = partial(store_measured, store.update_if_possible, devices)
        is_modelled = set(fitted_models(devices, segments_path())) == {device.id for device in devices}
        measured = measure(
            devices,
            budget_s=MODELLED_BUDGET_S if is_modelled and not aspects else BRIEF_BUDGET_S,
            known=stored_or_none(),
            aspects=aspects if is_modelled else ASPECTS,
            progress=progress,
            on_interrupt=stored,
        )
        return called(stored(measured), is_new=True)


def store_measured(update: Callable[..., Profile], devices: Sequence[Device], measured: Profile) -> Profile:
    """Store what was measured of some devices, and return the profile as it is stored then."""
    return update(measured, store.default_path(measured.precision), [device.id for device in devices])


def stored_or_none() -> Profile | None:
    """Return this machine's stored profile; None where there is none."""
    return store.load_own(store.default_path())


def still_valid(stored: Profile, chosen: Sequence[Device]) -> Profile:
    """Return the profile without devices whose engine has changed since."""
    now = {device.id: (device.name, device.engine_version) for device in chosen}
    devices = {key: d for key, d in stored.devices.items() if now.get(key) == (d.name, d.engine_version)}
    return replace(stored, devices=devices)


def _is_contention_known(profile: Profile, devices: Sequence[Device]) -> bool:
    pairs = {(row.device, row.beside) for row in profile.contention}
    return all((first.id, second.id) in pairs for first, second in contending_pairs(devices))
