"""Energy counters of Intel GPUs and NPUs, through Level Zero's Sysman and its Python package ``pyzes``.

A device of an engine and one of Sysman share no number: they are matched by name, or because there is only one of the
kind. Ambiguous devices have no counter.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.errors import one_line

log = logging.getLogger(__name__)
_MICRO = 1e-6
_INTEGRATED = 1
"""Sysman's flag of a GPU that is part of the processor."""
_DISCRETE_DOMAINS = ("CARD", "PACKAGE", "GPU", "UNKNOWN")
_INTEGRATED_DOMAINS = ("GPU", "PACKAGE", "CARD", "UNKNOWN")
"""In order of preference. A card has memory and fans of its own; a processor's package includes its cores."""


def energy_counter(device: Device) -> Callable[[], float] | None:
    """Return a function that reads the joules used by a device so far; None without a counter.

    Parameters
    ----------
    device : Device
        A GPU or NPU.
    """
    try:
        zes: Any = importlib.import_module("pyzes")
        _check(zes.zesInit(0))
        domain = _domain(zes, *_matching(zes, device))

        def read() -> float:
            counter = zes.zes_power_energy_counter_t()
            _check(zes.zesPowerGetEnergyCounter(domain, ctypes.byref(counter)))
            return int(counter.energy) * _MICRO

        read()
    except Exception as error:  # not installed, no driver, no permission, or no counter: each has exceptions of its own
        log.info("no energy counter for %s: %s", device.id, one_line(error))
        return None
    return read


def _matching(zes: Any, device: Device) -> tuple[Any, Any]:
    """Return Sysman's handle and properties of a device.

    Raises
    ------
    LookupError
        Where none or several match.
    """
    device_type = {"gpu": zes.ZE_DEVICE_TYPE_GPU, "npu": zes.ZE_DEVICE_TYPE_VPU}[device.kind]
    candidates = [
        (handle, properties)
        for driver in _handles(zes.zesDriverGet, zes.zes_driver_handle_t)
        for handle in _handles(zes.zesDeviceGet, zes.zes_device_handle_t, driver)
        if (properties := _properties(zes, handle)).core.type == device_type
    ]
    named = [
        pair for pair in candidates if (name := pair[1].core.name.decode(errors="replace")) and name in device.name
    ]
    if not named and capabilities(device).vendor == "intel":
        named = candidates
    if len(named) != 1:
        raise LookupError(f"{len(named)} devices of Level Zero match {device.id}, expected 1")
    return named[0]


def _properties(zes: Any, handle: Any) -> Any:
    properties = zes.zes_device_properties_t()
    properties.stype = zes.ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES
    _check(zes.zesDeviceGetProperties(handle, ctypes.byref(properties)))
    return properties


def _domain(zes: Any, device: Any, device_properties: Any) -> Any:
    """Return the power domain of the whole device; domains overlap, so they are not added up."""
    by_kind: dict[int, Any] = {}
    for handle in _handles(zes.zesDeviceEnumPowerDomains, zes.zes_pwr_handle_t, device):
        basic, extended = zes.zes_power_properties_t(), zes.zes_power_ext_properties_t()
        basic.stype = zes.ZES_STRUCTURE_TYPE_POWER_PROPERTIES
        extended.stype = zes.ZES_STRUCTURE_TYPE_POWER_EXT_PROPERTIES
        basic.pNext = ctypes.cast(ctypes.pointer(extended), ctypes.c_void_p)
        _check(zes.zesPowerGetProperties(handle, ctypes.byref(basic)))
        if not basic.onSubdevice:
            by_kind.setdefault(int(extended.domain), handle)
    order = _INTEGRATED_DOMAINS if device_properties.core.flags & _INTEGRATED else _DISCRETE_DOMAINS
    kinds = [getattr(zes, f"ZES_POWER_DOMAIN_{name}") for name in order]
    return next(by_kind[kind] for kind in kinds if kind in by_kind)


def _handles(listing: Callable[..., int], handle_type: Any, *parents: Any) -> Iterator[Any]:
    """Call a listing function of Level Zero twice: for the number of handles, then for the handles."""
    count = ctypes.c_uint32(0)
    _check(listing(*parents, ctypes.byref(count), None))
    if count.value:
        handles = (handle_type * count.value)()
        _check(listing(*parents, ctypes.byref(count), handles))
        yield from list(handles)[: count.value]


def _check(result: int) -> None:
    if result != 0:
        raise OSError(f"Level Zero returned {result:#x}")
