"""Uses a profile that was copied from another machine for what was not measured here, and says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trisect.profiles.costmodel.profile_prior import with_prior
from trisect.profiles.stored.profile_data import Profile
from trisect.profiles.stored.profile_store import default_path, load_prior
from trisect.runtime.device import Device


def with_foreign_times(profile: Profile, devices: Sequence[Device]) -> tuple[Profile, tuple[str, ...]]:
    """Return this machine's profile, for costs, with scaled times of a foreign one, and notes for the plan.

    Raises
    ------
    InvalidProfile
        When the foreign profile cannot be read.
    """
    wanted = {device.id for device in devices} & profile.devices.keys()
    prior = load_prior(default_path(profile.precision)) if wanted and profile.provenance.source == "measured" else None
    if prior is None:
        return profile, ()
    prior = replace(prior, devices={key: device for key, device in prior.devices.items() if key in wanted})
    profile, added = with_prior(profile, prior)
    return profile, (_note(prior, added),) if added else ()


def foreign_profile_note(precision: str) -> str:
    """Return what is to be said of a foreign profile in the place of this machine's; empty where there is none.

    Raises
    ------
    InvalidProfile
        As `with_foreign_times`.
    """
    prior = load_prior(default_path(precision))
    return "" if prior is None else _note(prior, prior.devices)


def _note(prior: Profile, device_ids: Iterable[str]) -> str:
    return (
        f"a profile that was measured on {prior.provenance.host} is used, scaled to this machine, only for operators "
        f"of {', '.join(device_ids)} that are not measured here"
    )
