"""OpenVINO's names for several devices, read and written: ``AUTO:GPU,CPU``, ``HETERO:GPU,CPU``, ``MULTI:GPU,CPU``.

``HETERO`` is the order in which each operator is offered to devices, which is `greedy` here; ``AUTO`` is the one best
device of those listed (``-GPU`` leaves one out); ``MULTI`` is all of them for throughput. A bare name is that device.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, UnknownDevice
from trisect.scheduler.problem.problem import Objective

Mode = Literal["AUTO", "HETERO", "MULTI", ""]
_MODES = ("AUTO", "HETERO", "MULTI")


@dataclass(frozen=True)
class DeviceString:
    """What such a string says, in this project's terms."""

    mode: Mode
    devices: tuple[Device, ...]
    """In the order of the string."""

    @property
    def strategy(self) -> str:
        """The strategy that places work as OpenVINO would."""
        if self.mode == "HETERO":
            return f"greedy:{','.join(device.id for device in self.devices)}"
        return "single" if self.mode == "AUTO" else "auto" if self.mode else f"single:{self.devices[0].id}"

    @property
    def objective(self) -> Objective:
        return "throughput" if self.mode == "MULTI" else "latency"

    def __str__(self) -> str:
        names = ",".join(map(_native, self.devices))
        return f"{self.mode}:{names}" if self.mode else names


def read_device_string(text: str, available: Sequence[Device]) -> DeviceString:
    """Read one of OpenVINO's device strings.

    Parameters
    ----------
    text : str
        As OpenVINO takes it, in any case.
    available : sequence of Device
        Only those that OpenVINO drives are meant.

    Raises
    ------
    InvalidInput
        For a mode that OpenVINO does not have.
    UnknownDevice
        For a device that OpenVINO does not list here.

    Examples
    --------
    >>> here = [Device(f"{kind}:openvino", kind, "openvino", "x", native=kind.upper()) for kind in ("cpu", "gpu")]
    >>> found = read_device_string("HETERO:GPU,CPU", here)
    >>> str(found), found.strategy
    ('HETERO:GPU,CPU', 'greedy:gpu:openvino,cpu:openvino')
    """
    by_native = {_native(device): device for device in available if device.engine == "openvino"}
    if not by_native:
        raise UnknownDevice("OpenVINO drives no device here", remedy="install openvino, or name devices by their ids")
    head, colon, tail = text.strip().upper().partition(":")
    mode: Mode = ""
    if head in _MODES:
        mode = head  # type: ignore[assignment]
    elif colon:
        near = difflib.get_close_matches(head, _MODES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(f"OpenVINO has no device mode {head[:40]!r}", remedy=f"{hint}there are: {', '.join(_MODES)}")
    names = [name.strip() for name in (tail if mode else head).split(",") if name.strip()]
    if mode == "AUTO" and all(name.startswith("-") for name in names):
        names = [name for name in by_native if f"-{name}" not in names]
    if not names:
        names = list(by_native)
    unknown = [name for name in names if name not in by_native]
    if unknown:
        raise UnknownDevice(
            f"OpenVINO lists no device {unknown[0][:40]!r} here", remedy=f"there are: {', '.join(by_native)}"
        )
    if not mode and len(names) > 1:
        raise InvalidInput(f"{text[:80]!r} lists devices without a mode", remedy=f"write HETERO:{','.join(names)}")
    return DeviceString(mode, tuple(by_native[name] for name in names))


def _native(device: Device) -> str:
    """OpenVINO's name of a device; a published one's is made as OpenVINO would."""
    _, is_numbered, number = device.id.partition("#")
    return device.native.upper() or device.kind.upper() + (f".{number}" if is_numbered else "")


def write_device_string(devices: Sequence[Device], mode: Mode = "HETERO") -> str:
    """Devices as OpenVINO would be told.

    Raises
    ------
    InvalidInput
        For devices of other engines, which OpenVINO cannot be told of.
    """
    foreign = [device.id for device in devices if device.engine != "openvino"]
    if foreign:
        raise InvalidInput(f"OpenVINO does not drive {', '.join(foreign)}", remedy="choose among openvino's devices")
    return str(DeviceString(mode if len(devices) > 1 else "", tuple(devices)))
