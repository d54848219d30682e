"""Measured segments on disk, beside the profile: the training data of the cost models.

A segment is stored as the terms of its cost, not as the model that it came from: the file discloses nothing of a user's
model, and can be read without ONNX.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal

import msgspec

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.device import Device
from trisect.runtime.files.cache_files import updating

from ..costmodel.cost_terms import CostTerm
from .profile_store import default_path
from .versioned_json import invalid_figure, read_versioned

SCHEMA = 2
"""Incremented also when the terms of a segment change: segments of an older version have to be measured again."""
_SIZE_LIMIT_BYTES = 256 << 20

Origin = Literal["network", "plan"]
"""A synthetic network, or a plan of a user's model."""


@dataclass(frozen=True)
class MeasuredSegment:
    """The time of a segment on one device inside a running plan, or that of one of its kernels."""

    terms: tuple[CostTerm, ...]
    time_s: float
    """Median of its runs."""
    spread: float
    """Interquartile range as a share of the median."""
    origin: Origin = "network"

    @property
    def is_kernel(self) -> bool:
        """Whether it is a part of a segment that an engine's profiler timed: without a call of its own."""
        return not any(term.kind == "call" for term in self.terms)

    @property
    def key(self) -> str:
        """Equal for segments with the same terms."""
        return segment_key(self.terms)


def segment_key(terms: Iterable[CostTerm]) -> str:
    """Return a hash of a segment's terms that does not depend on their order.

    Examples
    --------
    >>> segment_key([CostTerm("view"), CostTerm("call")]) == segment_key([CostTerm("call"), CostTerm("view")])
    True
    """
    return hashlib.sha256("\n".join(sorted(map(repr, terms))).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class SegmentStore:
    """The measured segments of each device."""

    devices: Mapping[str, tuple[MeasuredSegment, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Device id -> its name and its engine's version at the time of the measurement."""
    networks: int = 0
    """Number of synthetic networks measured; the next measurement continues there."""
    spent_s: float = 0.0
    """Total time spent on measuring."""

    def of(self, device: Device) -> tuple[MeasuredSegment, ...]:
        """Return the segments of a device; none where the device or its engine has changed since."""
        return self.devices.get(device.id, ()) if self.versions.get(device.id) == _version(device) else ()

    def extended(
        self,
        devices: Sequence[Device],
        measured: Mapping[str, Sequence[MeasuredSegment]],
        networks: int,
        spent_s: float,
    ) -> SegmentStore:
        """Return the store with more segments; those of a user's model replace earlier ones with the same terms."""
        new = {device.id: measured.get(device.id, ()) for device in devices}
        replaced = {key: {row.key for row in rows if row.origin != "network"} for key, rows in new.items()}
        merged = {
            device.id: (
                *(row for row in self.of(device) if not replaced[device.id] or row.key not in replaced[device.id]),
                *new[device.id],
            )
            for device in devices
        }
        versions = {device.id: _version(device) for device in devices}
        return SegmentStore({**self.devices, **merged}, {**self.versions, **versions}, networks, self.spent_s + spent_s)

    def joined(self, other: SegmentStore) -> SegmentStore:
        """Return these segments with those that another process has added of the same devices and engines."""
        devices, versions = {**other.devices, **self.devices}, {**other.versions, **self.versions}
        for device, rows in self.devices.items():
            if other.versions.get(device) == self.versions.get(device):
                known = set(rows)
                own = {row.key for row in rows if row.origin != "network"}
                more = (r for r in other.devices.get(device, ()) if r not in known and r.key not in own)
                devices[device] = (*rows, *more)
        return SegmentStore(devices, versions, max(self.networks, other.networks), max(self.spent_s, other.spent_s))


class _SegmentFile(msgspec.Struct):
    schema: int
    terms: list[CostTerm] = []
    devices: dict[str, list[tuple[list[int], float, float, Origin]]] = {}
    """Device id -> positions of the segment's terms, time, spread, origin."""
    versions: dict[str, str] = {}
    networks: int = 0
    spent_s: float = 0.0


def segments_path(precision: str = "float32") -> Path:
    """Return the path of this machine's measured segments."""
    return default_path(precision).with_suffix(".segments.json")


def load_segments(path: Path) -> SegmentStore:
    """Read measured segments; an empty store where there is no file, or one of an older version.

    Raises
    ------
    InvalidProfile
        For a file that is malformed, of a newer version, or holds impossible figures.
    """
    if not os.path.exists(path):
        return SegmentStore()
    file = read_versioned(path, _SegmentFile, schema=SCHEMA, oldest=SCHEMA, max_bytes=_SIZE_LIMIT_BYTES)
    if file is None:
        return SegmentStore()
    try:
        devices = {
            device: tuple(
                MeasuredSegment(tuple(file.terms[i] for i in indices), time_s, spread, origin)
                for indices, time_s, spread, origin in rows
            )
            for device, rows in file.devices.items()
        }
    except IndexError as error:
        raise invalid_figure(path, "the position of a term") from error
    for device, rows in devices.items():
        if not all(isfinite(row.time_s) and row.time_s > 0 for row in rows):
            raise invalid_figure(path, f"a time of {device}")
    return SegmentStore(devices, file.versions, file.networks, file.spent_s)


def update_segments(path: Path, change: Callable[[SegmentStore], SegmentStore]) -> SegmentStore:
    """Change the stored segments, without losing what other processes have stored meanwhile, and return them.

    Raises
    ------
    InvalidProfile, StorageFailed
        As `load_segments` and `save_segments`.
    """
    with updating(path):
        store = change(load_segments(path))
        save_segments(store, path)
    return store


def save_segments(store: SegmentStore, path: Path) -> None:
    """Write measured segments, each term once.

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
    file = _SegmentFile(SCHEMA, list(position), devices, dict(store.versions), store.networks, store.spent_s)
    write_atomically(path, msgspec.json.encode(file))


def _version(device: Device) -> str:
    return f"{device.name} | {device.engine_version}"
