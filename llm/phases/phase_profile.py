"""Measured costs of one language model's phases on this machine, and the file that stores them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trisect.profiles.stored.profile_data import Provenance
from trisect.profiles.stored.profile_store import default_path
from trisect.profiles.stored.versioned_json import read_versioned
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidProfile, ProfileMissing
from trisect.runtime.files.cache_files import update_cache
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..bundle import Bundle

SCHEMA = 1
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class PhasePoint:
    """Median time at one number of tokens."""

    tokens: int
    time_s: float
    spread: float
    """Interquartile range as a fraction of the median."""


@dataclass(frozen=True)
class DevicePhases:
    """Prefill and decode on one device."""

    name: str
    engine_version: str
    prefill: tuple[PhasePoint, ...]
    """Time of a whole prompt, by its length."""
    decode: tuple[PhasePoint, ...]
    """Time of one token, by the length of the context before it."""
    load_s: float


@dataclass(frozen=True)
class Handover:
    """Time of copying the KV cache from a prefill device to a decode device, by its length."""

    source: str
    """Device id."""
    target: str
    points: tuple[PhasePoint, ...]


@dataclass(frozen=True)
class PhaseProfile:
    """Measured costs of one language model's phases."""

    model: str
    """`Bundle.key` of the model."""
    precision: str
    threads: int | None
    provenance: Provenance
    devices: Mapping[str, DevicePhases]
    """By device id."""
    handovers: tuple[Handover, ...]
    schema: int = SCHEMA


def phases_path(bundle: Bundle, precision: str, threads: int | None) -> Path:
    """Return the file that stores the phases of a model on this machine."""
    machine = default_path(precision)
    return machine.with_name(f"{machine.stem}-llm-{bundle.key}-{threads or 'auto'}.json")


def save_phases(profile: PhaseProfile, path: Path) -> None:
    """Write a phase profile, with the devices that other processes have stored meanwhile, if that is possible."""

    def merged() -> bytes:
        return msgspec.json.format(msgspec.json.encode(_with_stored(profile, path)), indent=1)

    update_cache(path, merged, "the times of the phases")


def _with_stored(profile: PhaseProfile, path: Path) -> PhaseProfile:
    try:
        stored = decode_json(read_bytes(path, _MAX_FILE_BYTES), PhaseProfile)
    except (OSError, MalformedFile):
        return profile
    if (stored.model, stored.schema) != (profile.model, profile.schema) or _invalid_curve(stored):
        return profile
    handovers = {(row.source, row.target): row for row in (*stored.handovers, *profile.handovers)}
    devices = {**stored.devices, **profile.devices}
    return replace(profile, devices=devices, handovers=tuple(handovers.values()))


def load_phases(path: Path, bundle: Bundle, devices: Sequence[Device]) -> PhaseProfile:
    """Read the phase profile of a model, if it is valid for these devices.

    Raises
    ------
    ProfileMissing
        If there is none, or not for all devices in the versions that their engines have now.
    InvalidProfile
        If the file is damaged or of a newer version.
    """
    remedy = "move it away; it is measured again"
    if not os.path.exists(path):
        raise ProfileMissing(f"the phases of {bundle.name} were not measured here")
    profile = read_versioned(path, PhaseProfile, schema=SCHEMA, oldest=0, max_bytes=_MAX_FILE_BYTES, remedy=remedy)
    assert profile is not None
    if reason := _invalid_curve(profile):
        raise InvalidProfile(f"{path} holds an impossible figure: {reason}", remedy=remedy)
    if profile.model != bundle.key:
        raise ProfileMissing(f"{path} holds the phases of another model")
    versions = {device.id: (device.name, device.engine_version) for device in devices}
    valid = {id_: d for id_, d in profile.devices.items() if versions.get(id_) == (d.name, d.engine_version)}
    if missing := sorted(set(versions) - set(valid)):
        raise ProfileMissing(f"the phases of {bundle.name} were not measured on {', '.join(missing)}")
    measured = {(handover.source, handover.target) for handover in profile.handovers}
    for source, target in itertools.permutations(versions, 2):
        if (source, target) not in measured:
            raise ProfileMissing(f"handing over from {source} to {target} was not measured")
    return replace(profile, devices=valid)


def _invalid_curve(profile: PhaseProfile) -> str | None:
    """Return which curve has lengths or times that cannot be, in a few words."""
    curves = [(f"prefill on {id_}", device.prefill) for id_, device in profile.devices.items()]
    curves += [(f"decode on {id_}", device.decode) for id_, device in profile.devices.items()]
    curves += [(f"{handover.source} to {handover.target}", handover.points) for handover in profile.handovers]
    for name, points in curves:
        lengths = [point.tokens for point in points]
        if not lengths or lengths[0] < 1 or any(b <= a for a, b in itertools.pairwise(lengths)):
            return f"{name}, lengths"
        if not all(math.isfinite(point.time_s) and point.time_s >= 0 for point in points):
            return f"{name}, times"
    return None
