"""Reads and writes OpenVINO's device strings: ``AUTO:GPU,CPU``, ``HETERO:GPU,CPU``, ``MULTI:GPU,CPU``.

``HETERO`` assigns each operator to the first listed device that supports it, as the strategy `greedy` does; ``AUTO``
uses the best one of the listed devices (``-GPU`` excludes one); ``MULTI`` uses all of them for throughput. A name
without a mode is that device.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, UnknownDevice

Mode = Literal["AUTO", "HETERO", "MULTI", ""]
_MODES = ("AUTO", "HETERO", "MULTI")


@dataclass(frozen=True)
class DeviceString:
    """A parsed device string."""

    mode: Mode
    devices: tuple[Device, ...]
    """In the order of the string."""

    def __str__(self) -> str:
        names = ",".join(map(_native, self.devices))
        return f"{self.mode}:{names}" if self.mode else names


def read_device_string(text: str, available: Sequence[Device]) -> DeviceString:
    """Parse one of OpenVINO's device strings.

    Parameters
    ----------
    text : str
        As for OpenVINO, in upper or lower case.
    available : sequence of Device
        Devices of other engines are ignored.

    Raises
    ------
    InvalidInput
        For a mode that OpenVINO does not have.
    UnknownDevice
        For a device that OpenVINO does not list on this machine.

    Examples
    --------
    >>> here = [Device(f"{kind}:openvino", kind, "openvino", "x", native=kind.upper()) for kind in ("cpu", "gpu")]
    >>> parsed = read_device_string("HETERO:GPU,CPU", here)
    >>> str(parsed), parsed.mode
    ('HETERO:GPU,CPU', 'HETERO')
    """
    by_native = {_native(device): device for device in available if device.engine == "openvino"}
    if not by_native:
        raise UnknownDevice("OpenVINO lists no device here", remedy="install openvino, or name devices by their ids")
    head, colon, tail = text.strip().upper().partition(":")
    mode: Mode = ""
    if head in _MODES:
        mode = head  # type: ignore[assignment]
    elif colon:
        near = difflib.get_close_matches(head, _MODES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(
            f"unknown OpenVINO device mode {head[:40]!r}", remedy=f"{hint}expected one of: {', '.join(_MODES)}"
        )
    names = [name.strip() for name in (tail if mode else head).split(",") if name.strip()]
    if mode == "AUTO" and all(name.startswith("-") for name in names):
        names = [name for name in by_native if f"-{name}" not in names]
    if not names:
        names = list(by_native)
    unknown = [name for name in names if name not in by_native]
    if unknown:
        raise UnknownDevice(
            f"unknown OpenVINO device {unknown[0][:40]!r}", remedy=f"expected one of: {', '.join(by_native)}"
        )
    if not mode and len(names) > 1:
        raise InvalidInput(f"{text[:80]!r} lists devices without a mode", remedy=f"use HETERO:{','.join(names)}")
    return DeviceString(mode, tuple(by_native[name] for name in names))


def _native(device: Device) -> str:
    """Return OpenVINO's name of a device; for a published device, it follows OpenVINO's naming scheme."""
    _, is_numbered, number = device.id.partition("#")
    return device.native.upper() or device.kind.upper() + (f".{number}" if is_numbered else "")


def write_device_string(devices: Sequence[Device], mode: Mode = "HETERO") -> str:
    """Format devices as one of OpenVINO's device strings.

    Raises
    ------
    InvalidInput
        For devices of other engines.
    """
    foreign = [device.id for device in devices if device.engine != "openvino"]
    if foreign:
        raise InvalidInput(f"OpenVINO does not drive {', '.join(foreign)}", remedy="select OpenVINO's devices only")
    return str(DeviceString(mode if len(devices) > 1 else "", tuple(devices)))
