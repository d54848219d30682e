"""Machines from published figures only, for which plans can be made and simulated.

Each file in this folder describes one machine. Each figure states whether it was published, derived from published
figures, or assumed because none are published, and names its source. Nothing here was measured by trisect, and no
result is ever shown as measured.
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
"""Classes whose rate is in operations per second; that of the others is in bytes per second."""
_SIZES = (1e4, 1e7, 1e10)


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number and its source."""

    value: float
    kind: Literal["published", "derived", "assumed"]
    source: str
    """Key of the machine's `sources`; for an assumption, why it is needed."""
    how: str = ""
    """How a derived figure was derived, or why an assumed one was chosen."""


class _DeviceFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class _LinkFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    between: tuple[str, str]
    latency_s: Figure
    bandwidth_bytes_per_s: Figure | None


class _MachineFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    title: str
    precision: str
    sources: dict[str, str]
    devices: list[_DeviceFigures]
    links: list[_LinkFigures]
    read_bandwidth_bytes_per_s: Figure


@dataclass(frozen=True)
class ReferenceMachine:
    """A machine described by published figures."""

    name: str
    title: str
    devices: tuple[Device, ...]
    """Their reality is ``published``."""
    profile: Profile
    figures: Mapping[str, Figure]
    """Figures from which the profile was made: ``npu:openvino matvec`` -> figure."""
    sources: Mapping[str, str]


def names() -> list[str]:
    """Return the names of the machines.

    Examples
    --------
    >>> names()
    ['amd-ryzen-ai-9-hx-370', 'intel-core-ultra-7-155h', 'nvidia-dgx-h200', 'nvidia-h200', 'snapdragon-x-elite']
    """
    return sorted(entry.name.removesuffix(".json") for entry in files(__package__).iterdir() if ".json" in entry.name)


def machine(name: str) -> ReferenceMachine:
    """Return a machine by its name.

    Raises
    ------
    UnknownDevice
        For an unknown name; the message lists the known ones.
    InvalidProfile
        For a malformed file.

    Examples
    --------
    >>> h200 = machine("nvidia-h200")
    >>> [(device.id, device.reality) for device in h200.devices]
    [('cpu:ort', 'published'), ('gpu:cuda', 'published')]
    >>> h200.figures["gpu:cuda matvec"].kind
    'published'
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownDevice(f"no published machine {name!r}", remedy=f"{hint}there are: {', '.join(names())}")
    return read(name, (files(__package__) / f"{name}.json").read_bytes())


def read(name: str, content: bytes) -> ReferenceMachine:
    """Parse the file of a machine.

    Raises
    ------
    InvalidProfile
        For a malformed file, an impossible figure, or a figure without a source.
    """
    try:
        file = msgspec.json.decode(content, type=_MachineFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidProfile(
            f"the reference profile of {name} is malformed: {error}", remedy="install trisect again"
        ) from error
    figures = dict(_figures(file))
    for key, figure in figures.items():
        if not isfinite(figure.value) or figure.value < 0:
            raise InvalidProfile(f"{name}: {key} is impossible: {figure.value}")
        if figure.kind != "assumed" and figure.source not in file.sources:
            raise InvalidProfile(f"{name}: {key} has no source")
        if figure.kind != "published" and not figure.how:
            raise InvalidProfile(f"{name}: {key} is {figure.kind}, but does not state how")
    devices = tuple(map(_device, file.devices))
    return ReferenceMachine(name, file.title, devices, _profile(file), figures, dict(file.sources))


def _figures(file: _MachineFile) -> Iterator[tuple[str, Figure]]:
    for device in file.devices:
        for op_class, figure in device.rates.items():
            yield f"{device.id} {op_class.value}", figure
        yield f"{device.id} call", device.call_overhead_s
        yield f"{device.id} node", device.node_overhead_s
        if device.power_w is not None:
            yield f"{device.id} power", device.power_w
    for link in file.links:
        yield f"{' - '.join(link.between)} latency", link.latency_s
        if link.bandwidth_bytes_per_s is not None:
            yield f"{' - '.join(link.between)} bandwidth", link.bandwidth_bytes_per_s
    yield "memory", file.read_bandwidth_bytes_per_s


def _device(device: _DeviceFigures) -> Device:
    return Device(
        id=device.id,
        kind=device.kind,
        engine=device.engine,
        name=device.name,
        reality="published",
        memory_bytes=device.memory_bytes,
        limits=Limits(static_shapes=device.static_shapes),
    )


def _profile(file: _MachineFile) -> Profile:
    devices = {device.id: _device_profile(device) for device in file.devices}
    links = tuple(
        Link(
            source,
            target,
            link.latency_s.value,
            link.bandwidth_bytes_per_s.value if link.bandwidth_bytes_per_s is not None else None,
        )
        for link in file.links
        for source, target in (link.between, link.between[::-1])
    )
    origin = Provenance("published", file.title, file.devices[0].name, "", "", {}, None)
    return Profile(origin, file.precision, devices, links, file.read_bandwidth_bytes_per_s.value)


def _device_profile(device: _DeviceFigures) -> DeviceProfile:
    points = tuple(_point(op_class, figure, size) for op_class, figure in device.rates.items() for size in _SIZES)
    product = device.rates.get(OpClass.MATMUL)
    return DeviceProfile(
        device.id,
        device.name,
        "",
        device.call_overhead_s.value,
        device.node_overhead_s.value,
        points,
        peak_flops=product.value if product is not None else None,
        power_w=device.power_w.value if device.power_w is not None else None,
    )


def _point(op_class: OpClass, rate: Figure, size: float) -> Point:
    """Return the time of a number of operations or bytes; the other quantity is zero, so that it does not count."""
    flops, size_bytes = (size, 0) if op_class in _COMPUTE else (0.0, int(size))
    return Point(f"{op_class.value}:published:{size:.0e}", op_class, "published", flops, size_bytes, size / rate.value)
