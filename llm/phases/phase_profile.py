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
MAX_FILE_BYTES = 4 << 20


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
    chunk_tokens: int = 1
    """Prompts take as long as the next multiple of this many tokens: that of fixed shapes computes whole chunks."""


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
    flops_per_token: int = 0
    """Of the model, as in its bundle; 0 in files of earlier versions."""
    decode_bytes_per_token: int = 0
    cache_bytes_per_token: int = 0


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
        stored = decode_json(read_bytes(path, MAX_FILE_BYTES), PhaseProfile)
    except (OSError, MalformedFile):
        return profile
    if (stored.model, stored.schema) != (profile.model, profile.schema) or invalid_curve(stored):
        return profile
    return merged_phases(stored, profile)


def merged_phases(older: PhaseProfile, newer: PhaseProfile) -> PhaseProfile:
    """Return what two profiles of one model have measured; the newer one counts where both have.

    What is older about a device, or an engine, that has changed since is dropped.
    """
    devices = dict(older.devices)
    changed = set()
    for id_, device in newer.devices.items():
        before = devices.get(id_)
        if before is None or (before.name, before.engine_version) != (device.name, device.engine_version):
            devices[id_] = device
            if before is not None:
                changed.add(id_)
        else:
            curves = _merged(before.prefill, device.prefill), _merged(before.decode, device.decode)
            devices[id_] = replace(device, prefill=curves[0], decode=curves[1])
    handovers = {
        (row.source, row.target): row for row in older.handovers if changed.isdisjoint((row.source, row.target))
    }
    for row in newer.handovers:
        points = handovers[row.source, row.target].points if (row.source, row.target) in handovers else ()
        handovers[row.source, row.target] = replace(row, points=_merged(points, row.points))
    return replace(newer, devices=devices, handovers=tuple(handovers.values()))


def _merged(older: Sequence[PhasePoint], newer: Sequence[PhasePoint]) -> tuple[PhasePoint, ...]:
    points = {point.tokens: point for point in (*older, *newer)}
    return tuple(points[tokens] for tokens in sorted(points))


def load_phases(path: Path, bundle: Bundle, devices: Sequence[Device]) -> PhaseProfile:
    """Read the phase profile of a model, if it has measurements of all these devices.

    Raises
    ------
    ProfileMissing
        If there is none, or not for all devices in the versions that their engines have now.
    InvalidProfile
        If the file is damaged or of a newer version.
    """
    profile = stored_phases(path, bundle, devices)
    if profile is None:
        raise ProfileMissing(f"the phases of {bundle.name} were not measured here")
    measured = {id_ for id_, device in profile.devices.items() if device.prefill and device.decode}
    if missing := sorted({device.id for device in devices} - measured):
        raise ProfileMissing(f"the phases of {bundle.name} were not measured on {', '.join(missing)}")
    pairs = {(handover.source, handover.target) for handover in profile.handovers}
    for source, target in itertools.permutations((device.id for device in devices), 2):
        if (source, target) not in pairs:
            raise ProfileMissing(f"handing over from {source} to {target} was not measured")
    return profile


def stored_phases(path: Path, bundle: Bundle, devices: Sequence[Device]) -> PhaseProfile | None:
    """Read what has been measured of these devices, in the versions that their engines have now; None if nothing.

    Raises
    ------
    InvalidProfile
        If the file is damaged or of a newer version.
    """
    remedy = "move it away; it is measured again"
    if not os.path.exists(path):
        return None
    profile = read_versioned(path, PhaseProfile, schema=SCHEMA, oldest=0, max_bytes=MAX_FILE_BYTES, remedy=remedy)
    assert profile is not None
    if reason := invalid_curve(profile):
        raise InvalidProfile(f"{path} holds an impossible figure: {reason}", remedy=remedy)
    versions = {device.id: (device.name, device.engine_version) for device in devices}
    valid = {id_: d for id_, d in profile.devices.items() if versions.get(id_) == (d.name, d.engine_version)}
    if profile.model != bundle.key or not valid:
        return None
    pairs = tuple(row for row in profile.handovers if row.points and {row.source, row.target} <= valid.keys())
    return replace(profile, devices=valid, handovers=pairs)


def invalid_curve(profile: PhaseProfile) -> str | None:
    """Return which curve has lengths or times that cannot be, in a few words."""
    curves = [(f"prefill on {id_}", device.prefill) for id_, device in profile.devices.items()]
    curves += [(f"decode on {id_}", device.decode) for id_, device in profile.devices.items()]
    curves += [(f"{handover.source} to {handover.target}", handover.points) for handover in profile.handovers]
    for name, points in curves:
        lengths = [point.tokens for point in points]
        if any(length < 1 for length in lengths) or any(b <= a for a, b in itertools.pairwise(lengths)):
            return f"{name}, lengths"
        if not all(math.isfinite(point.time_s) and point.time_s >= 0 for point in points):
            return f"{name}, times"
    return None
