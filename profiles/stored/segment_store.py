"""Measured segments on disk: what a cost model learns from, kept beside the profile and added to.

A segment is stored as the summands of its time, not as the model that it came from: the file says nothing of anybody's
model, and is read without ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal

import msgspec

from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidProfile

from ..costmodel.cost_terms import CostTerm
from .profile_store import default_path, write_aside

SCHEMA = 2
"""Also raised when a segment's summands are told otherwise than before: what was measured then is measured again."""
_SIZE_LIMIT_BYTES = 256 << 20

Origin = Literal["network", "plan"]
"""Of a made-up network, or of a user's model that ran."""


@dataclass(frozen=True)
class MeasuredSegment:
    """A segment's time on one device, inside a running plan; or that of one of its kernels."""

    terms: tuple[CostTerm, ...]
    time_s: float
    """Median of its runs."""
    spread: float
    """Interquartile range as a share of the median."""
    origin: Origin = "network"

    @property
    def is_kernel(self) -> bool:
        """Whether it is only a part of a segment, which an engine's profiler told apart: nothing called it."""
        return not any(term.kind == "call" for term in self.terms)

    @property
    def key(self) -> str:
        """Equal for segments that are made of the same work."""
        return segment_key(self.terms)


def segment_key(terms: Iterable[CostTerm]) -> str:
    """Hash of a segment's summands, whatever their order.

    Examples
    --------
    >>> segment_key([CostTerm("view"), CostTerm("call")]) == segment_key([CostTerm("call"), CostTerm("view")])
    True
    """
    return hashlib.sha256("\n".join(sorted(map(repr, terms))).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class SegmentStore:
    """Measured segments of each device."""

    devices: Mapping[str, tuple[MeasuredSegment, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Device id -> its name and its engine's version when they were measured."""
    networks: int = 0
    """How many made-up networks were measured: the next one to go on with."""
    spent_s: float = 0.0
    """How long measuring took so far."""

    def of(self, device: Device) -> tuple[MeasuredSegment, ...]:
        """What is known of a device that is still the same."""
        return self.devices.get(device.id, ()) if self.versions.get(device.id) == _version(device) else ()

    def adding(
        self,
        devices: Sequence[Device],
        found: Mapping[str, Sequence[MeasuredSegment]],
        networks: int,
        spent_s: float,
    ) -> SegmentStore:
        """With more: of a user's model the newer figure counts; of a device that has changed only the new ones."""
        fresh = {device.id: found.get(device.id, ()) for device in devices}
        newer = {key: {row.key for row in rows if row.origin != "network"} for key, rows in fresh.items()}
        known = {
            device.id: (*(row for row in self.of(device) if not newer[device.id] or row.key not in newer[device.id]),
                        *fresh[device.id])
            for device in devices
        }  # fmt: skip
        versions = {device.id: _version(device) for device in devices}
        return SegmentStore({**self.devices, **known}, {**self.versions, **versions}, networks, self.spent_s + spent_s)


class _File(msgspec.Struct):
    schema: int
    terms: list[CostTerm] = []
    devices: dict[str, list[tuple[list[int], float, float, Origin]]] = {}
    versions: dict[str, str] = {}
    networks: int = 0
    spent_s: float = 0.0


def segments_path(precision: str = "float32") -> Path:
    """Where this machine's measured segments lie: beside its profile."""
    return default_path(precision).with_suffix(".segments.json")


def load_segments(path: Path) -> SegmentStore:
    """Read measured segments; none where there is no file, or one of an older form, which is then measured again.

    Raises
    ------
    InvalidProfile
        For a file that is damaged, newer, or that holds impossible figures.
    """
    remedy = "move it away and run: trisect profile"
    try:
        if not path.exists():
            return SegmentStore()
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise InvalidProfile(f"{path} is too large for measured segments", remedy=remedy)
        content = path.read_bytes()
    except OSError as error:
        raise InvalidProfile(f"{path} cannot be read: {error.strerror or error}", remedy=remedy) from error
    try:
        schema = msgspec.json.decode(content, type=_Header).schema
        if schema > SCHEMA:
            raise InvalidProfile(f"{path} is of version {schema}, newer than this trisect", remedy="update trisect")
        if schema < SCHEMA:
            return SegmentStore()
        file = msgspec.json.decode(content, type=_File)
        devices = {
            device: tuple(
                MeasuredSegment(tuple(file.terms[i] for i in indices), time_s, spread, origin)
                for indices, time_s, spread, origin in rows
            )
            for device, rows in file.devices.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
        raise InvalidProfile(f"{path} holds no sound measured segments: {error}", remedy=remedy) from error
    for device, rows in devices.items():
        if not all(isfinite(row.time_s) and row.time_s > 0 for row in rows):
            raise InvalidProfile(f"{path} holds an impossible time of {device}", remedy=remedy)
    return SegmentStore(devices, file.versions, file.networks, file.spent_s)


class _Header(msgspec.Struct):
    schema: int


def save_segments(store: SegmentStore, path: Path) -> None:
    """Write measured segments, each summand once.

    Raises
    ------
    StorageFailed
        Disk full or no permission; nothing half-written is left.
    """
    position: dict[CostTerm, int] = {}
    devices = {
        device: [
            ([position.setdefault(term, len(position)) for term in row.terms], row.time_s, row.spread, row.origin)
            for row in rows
        ]
        for device, rows in store.devices.items()
    }
    file = _File(SCHEMA, list(position), devices, dict(store.versions), store.networks, store.spent_s)
    write_aside(path, msgspec.json.encode(file))


def _version(device: Device) -> str:
    return f"{device.name} | {device.engine_version}"
