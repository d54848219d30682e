"""Profiles on disk: read with suspicion, written aside and renamed, never over something that cannot be read."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from dataclasses import replace
from math import isfinite
from pathlib import Path

import msgspec
import platformdirs

from trisect.runtime.errors import InvalidProfile, StorageFailed

from .profile_data import SCHEMA, Profile

ENVIRONMENT = "TRISECT_PROFILES"
"""Environment variable that names the folder of profiles."""
_SIZE_LIMIT_BYTES = 64 << 20


class _Header(msgspec.Struct):
    schema: int


def default_path(precision: str = "float32") -> Path:
    """Where this machine's profile lies: in ``TRISECT_PROFILES`` or the user's cache."""
    named = os.environ.get(ENVIRONMENT)
    folder = Path(named) if named else Path(platformdirs.user_cache_dir("trisect")) / "profiles"
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "here"
    return folder / f"{host}-{precision}.json"


def calibrations_path() -> Path:
    """Where it is kept what whole models took on this machine."""
    return default_path().with_suffix(".whole-models.json")


def save(profile: Profile, path: Path) -> None:
    """Write a profile.

    Raises
    ------
    InvalidProfile
        When a file is there already that is no profile, or one of a newer version: it is left as it is. For figures
        that are impossible, which nobody could read again.
    StorageFailed
        Disk full or no permission; nothing half-written is left.
    """
    wrong = _impossible(profile)
    if wrong:
        raise InvalidProfile(f"an impossible figure was measured: {wrong}", remedy="measure again: trisect profile")
    if path.exists():
        load(path)
    write_aside(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))


def write_aside(path: Path, content: bytes) -> None:
    """Write a file aside and rename it, so that a reader never sees half of it.

    Raises
    ------
    StorageFailed
        Disk full or no permission; nothing half-written is left.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error


def load(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    InvalidProfile
        For a file that is missing, damaged, foreign, of a newer version, or that holds impossible figures.
    """
    remedy = "move it away and run: trisect profile"
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise InvalidProfile(f"{path} is too large for a profile", remedy=remedy)
        text = path.read_bytes()
    except OSError as error:
        raise InvalidProfile(f"the profile {path} cannot be read: {error.strerror or error}", remedy=remedy) from error
    try:
        schema = msgspec.json.decode(text, type=_Header).schema
        if schema > SCHEMA:
            raise InvalidProfile(
                f"{path} is a profile of version {schema}, newer than this trisect ({SCHEMA})", remedy="update trisect"
            )
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidProfile(f"{path} is not a sound profile: {error}", remedy=remedy) from error
    wrong = _impossible(profile)
    if wrong:
        raise InvalidProfile(f"{path} holds an impossible figure: {wrong}", remedy=remedy)
    return replace(profile, schema=SCHEMA)  # an older one lacks what was added since, and is otherwise the same


def load_own(path: Path) -> Profile | None:
    """Read this machine's profile; None where there is none.

    Raises
    ------
    InvalidProfile
        As `load`; and for one that another machine measured, of which a name alone tells nothing.
    """
    if not path.exists():
        return None
    profile, here = load(path), platform.node()
    host = profile.provenance.host
    if profile.provenance.source == "measured" and host and host != here:
        raise InvalidProfile(
            f"{path} was measured on {host}, and this is {here}", remedy="move it away and run: trisect profile"
        )
    return profile


def _impossible(profile: Profile) -> str | None:
    for key, device in profile.devices.items():
        if key != device.device:
            return f"device {key!r} is called {device.device!r}"
        for point in device.points:
            if not (_positive(point.time_s) and point.size_bytes >= 0 and isfinite(point.flops) and point.flops >= 0):
                return f"{key}, {point.case}"
        if any(min(found.weights_bytes, found.tensors_bytes, found.resident_bytes) < 0 for found in device.memory):
            return f"memory of {key}"
        if not (_positive(device.call_overhead_s) and device.node_overhead_s >= 0 and isfinite(device.node_overhead_s)):
            return f"overheads of {key}"
        if not all(_positive(t) for found in device.wakeups for t in (found.idle_s, found.cold_s, found.warm_s)):
            return f"wake-up costs of {key}"
    for link in profile.links:
        bandwidth = link.bandwidth_bytes_per_s
        if not (isfinite(link.latency_s) and link.latency_s >= 0 and (bandwidth is None or _positive(bandwidth))):
            return f"link {link.source} to {link.target}"
    for found in profile.contention:
        if not (_positive(found.alone_s) and _positive(found.together_s)):
            return f"contention of {found.device} with {found.beside}"
    return None


def _positive(value: float) -> bool:
    return isfinite(value) and value > 0
