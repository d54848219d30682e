"""The energy that Intel's GPUs and NPUs count, through Level-Zero's Sysman and its Python package ``pyzes``.

A device of an engine and one of Sysman have no number in common: they are matched by name, or because there is only
one of the kind, and where that leaves a doubt nothing is read. Figures that nobody may read are not there either.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from trisect.runtime.device import Device

_MICRO = 1e-6
_INTEGRATED = 1
"""Sysman's flag of a GPU that is part of the processor."""
_DISCRETE_DOMAINS = ("CARD", "PACKAGE", "GPU", "UNKNOWN")
_INTEGRATED_DOMAINS = ("GPU", "PACKAGE", "CARD", "UNKNOWN")
"""Best first. A card has memory and fans of its own; a processor's package counts its cores too."""
_INTELS_ONLY = "openvino"
"""The engine whose GPUs and NPUs all are Intel's, whatever else is in the machine."""


def energy_counter(device: Device) -> Callable[[], float] | None:
    """What reads the joules that a device has used so far; None where nobody tells.

    Parameters
    ----------
    device : Device
        A GPU or NPU.
    """
    try:
        zes: Any = importlib.import_module("pyzes")
        _check(zes.zesInit(0))
        domain = _domain(zes, _matching(zes, device))

        def read() -> float:
            counter = zes.zes_power_energy_counter_t()
            _check(zes.zesPowerGetEnergyCounter(domain, ctypes.byref(counter)))
            return int(counter.energy) * _MICRO

        read()
    except Exception:  # not installed, no driver, no permission, or no counter: each has errors of its own
        return None
    return read


def _matching(zes: Any, device: Device) -> tuple[Any, Any]:
    """Sysman's handle and properties of a device.

    Raises
    ------
    LookupError
        Where none or several could be meant.
    """
    wanted = {"gpu": zes.ZE_DEVICE_TYPE_GPU, "npu": zes.ZE_DEVICE_TYPE_VPU}[device.kind]
    found = [
        (handle, properties)
        for driver in _handles(zes.zesDriverGet, zes.zes_driver_handle_t)
        for handle in _handles(zes.zesDeviceGet, zes.zes_device_handle_t, driver)
        if (properties := _properties(zes, handle)).core.type == wanted
    ]
    named = [each for each in found if (name := each[1].core.name.decode(errors="replace")) and name in device.name]
    if not named and device.engine == _INTELS_ONLY:
        named = found
    if len(named) != 1:
        raise LookupError(f"{len(named)} devices could be {device.id}")
    return named[0]


def _properties(zes: Any, handle: Any) -> Any:
    properties = zes.zes_device_properties_t()
    properties.stype = zes.ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES
    _check(zes.zesDeviceGetProperties(handle, ctypes.byref(properties)))
    return properties


def _domain(zes: Any, found: tuple[Any, Any]) -> Any:
    """The one power domain that stands for the whole device; parts of it are not added up, they overlap."""
    device, properties = found
    by_kind: dict[int, Any] = {}
    for handle in _handles(zes.zesDeviceEnumPowerDomains, zes.zes_pwr_handle_t, device):
        told, more = zes.zes_power_properties_t(), zes.zes_power_ext_properties_t()
        told.stype, more.stype = zes.ZES_STRUCTURE_TYPE_POWER_PROPERTIES, zes.ZES_STRUCTURE_TYPE_POWER_EXT_PROPERTIES
        told.pNext = ctypes.cast(ctypes.pointer(more), ctypes.c_void_p)
        _check(zes.zesPowerGetProperties(handle, ctypes.byref(told)))
        if not told.onSubdevice:
            by_kind.setdefault(int(more.domain), handle)
    order = _INTEGRATED_DOMAINS if properties.core.flags & _INTEGRATED else _DISCRETE_DOMAINS
    kinds = [getattr(zes, f"ZES_POWER_DOMAIN_{name}") for name in order]
    return next(by_kind[kind] for kind in kinds if kind in by_kind)


def _handles(listing: Callable[..., int], handle_type: Any, *of: Any) -> Iterator[Any]:
    """What a function of Level-Zero lists: asked first how many there are, then for them."""
    count = ctypes.c_uint32(0)
    _check(listing(*of, ctypes.byref(count), None))
    if count.value:
        handles = (handle_type * count.value)()
        _check(listing(*of, ctypes.byref(count), handles))
        yield from list(handles)[: count.value]


def _check(result: int) -> None:
    if result != 0:
        raise OSError(f"Level-Zero answers {result:#x}")
