"""Machines that are not at hand, from published figures only: what plans for them can be made and simulated with.

A file in this folder is one machine. Each figure in it says whether it was published, derived from published ones, or
assumed because nobody published any, and from where; nothing in it was measured here, and nothing made from it is ever
shown as measured.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from typing import Literal

import msgspec

from trisect.runtime.device import Device, Kind, Limits
from trisect.runtime.errors import InvalidProfile, UnknownDevice

from ..costmodel.op_features import OpClass
from ..stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance

_COMPUTE = (OpClass.MATMUL, OpClass.CONV, OpClass.ATTENTION)
"""Classes whose rate is in operations a second; that of the others is in bytes a second."""
_SIZES = (1e4, 1e7, 1e10)


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number and where it comes from."""

    value: float
    kind: Literal["published", "derived", "assumed"]
    source: str
    """Key of the machine's `sources`; of an assumption why it is needed."""
    how: str = ""
    """How a derived figure was derived, or an assumed one chosen."""


class _Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    kind: Kind
    engine: str
    name: str
    memory_bytes: int | None
    static_shapes: bool
    rates: dict[OpClass, Figure]
    call_overhead_s: Figure
    node_overhead_s: Figure
    power_w: Figure | None = None


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    between: tuple[str, str]
    latency_s: Figure
    bandwidth_bytes_per_s: Figure | None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    title: str
    precision: str
    sources: dict[str, str]
    devices: list[_Unit]
    links: list[_Wire]
    read_bandwidth_bytes_per_s: Figure


@dataclass(frozen=True)
class ReferenceMachine:
    """A machine as it was published."""

    name: str
    title: str
    devices: tuple[Device, ...]
    """With the reality ``published``."""
    profile: Profile
    figures: Mapping[str, Figure]
    """All that the profile was made from: ``npu:openvino matvec`` -> figure."""
    sources: Mapping[str, str]


def names() -> list[str]:
    """The machines that there are.

    Examples
    --------
    >>> names()
    ['amd-ryzen-ai-9-hx-370', 'intel-core-ultra-7-155h', 'nvidia-dgx-h200', 'nvidia-h200', 'snapdragon-x-elite']
    """
    return sorted(entry.name.removesuffix(".json") for entry in files(__package__).iterdir() if ".json" in entry.name)


def machine(name: str) -> ReferenceMachine:
    """One of them.

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.
    InvalidProfile
        For a file that is damaged.

    Examples
    --------
    >>> found = machine("nvidia-h200")
    >>> [(device.id, device.reality) for device in found.devices]
    [('cpu:ort', 'published'), ('gpu:cuda', 'published')]
    >>> found.figures["gpu:cuda matvec"].kind
    'published'
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownDevice(f"no published machine {name!r}", remedy=f"{hint}there are: {', '.join(names())}")
    return read(name, (files(__package__) / f"{name}.json").read_bytes())


def read(name: str, content: bytes) -> ReferenceMachine:
    """A machine out of its file.

    Raises
    ------
    InvalidProfile
        For a file that is damaged, or a figure that is impossible or whose source is not told.
    """
    try:
        found = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidProfile(
            f"{name} is not a sound reference profile: {error}", remedy="install trisect again"
        ) from error
    figures = dict(_figures(found))
    for key, figure in figures.items():
        if not isfinite(figure.value) or figure.value < 0:
            raise InvalidProfile(f"{name}: {key} is impossible: {figure.value}")
        if figure.kind != "assumed" and figure.source not in found.sources:
            raise InvalidProfile(f"{name}: nobody says where {key} comes from")
        if figure.kind != "published" and not figure.how:
            raise InvalidProfile(f"{name}: {key} is {figure.kind}, and nobody says how")
    return ReferenceMachine(
        name, found.title, tuple(map(_device, found.devices)), _profile(found), figures, dict(found.sources)
    )


def _figures(found: _File) -> Iterator[tuple[str, Figure]]:
    for unit in found.devices:
        for op_class, figure in unit.rates.items():
            yield f"{unit.id} {op_class.value}", figure
        yield f"{unit.id} call", unit.call_overhead_s
        yield f"{unit.id} node", unit.node_overhead_s
        if unit.power_w is not None:
            yield f"{unit.id} power", unit.power_w
    for wire in found.links:
        yield f"{' - '.join(wire.between)} latency", wire.latency_s
        if wire.bandwidth_bytes_per_s is not None:
            yield f"{' - '.join(wire.between)} bandwidth", wire.bandwidth_bytes_per_s
    yield "memory", found.read_bandwidth_bytes_per_s


def _device(unit: _Unit) -> Device:
    return Device(
        id=unit.id,
        kind=unit.kind,
        engine=unit.engine,
        name=unit.name,
        reality="published",
        memory_bytes=unit.memory_bytes,
        limits=Limits(static_shapes=unit.static_shapes),
    )


def _profile(found: _File) -> Profile:
    devices = {unit.id: _device_profile(unit) for unit in found.devices}
    links = tuple(
        Link(
            source,
            target,
            wire.latency_s.value,
            wire.bandwidth_bytes_per_s.value if wire.bandwidth_bytes_per_s is not None else None,
        )
        for wire in found.links
        for source, target in (wire.between, wire.between[::-1])
    )
    origin = Provenance("published", found.title, found.devices[0].name, "", "", {}, None)
    return Profile(origin, found.precision, devices, links, found.read_bandwidth_bytes_per_s.value)


def _device_profile(unit: _Unit) -> DeviceProfile:
    points = tuple(_point(op_class, figure, size) for op_class, figure in unit.rates.items() for size in _SIZES)
    product = unit.rates.get(OpClass.MATMUL)
    return DeviceProfile(
        unit.id,
        unit.name,
        "",
        unit.call_overhead_s.value,
        unit.node_overhead_s.value,
        points,
        peak_flops=product.value if product is not None else None,
        power_w=unit.power_w.value if unit.power_w is not None else None,
    )


def _point(op_class: OpClass, rate: Figure, size: float) -> Point:
    """A time for so many operations or bytes; the other quantity is left at zero, so that only the one counts."""
    flops, size_bytes = (size, 0) if op_class in _COMPUTE else (0.0, int(size))
    return Point(f"{op_class.value}:published:{size:.0e}", op_class, "published", flops, size_bytes, size / rate.value)
