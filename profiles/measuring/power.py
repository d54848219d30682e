"""Measures the power that a device draws under load, on machines with an energy counter for it.

Supported counters: RAPL for the packages of Intel and AMD processors (Linux; readable by root unless allowed
otherwise), NVML for NVIDIA GPUs (package nvidia-ml-py), and Level Zero for Intel GPUs and NPUs (package pyzes).
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.errors import one_line

from . import level_zero

log = logging.getLogger(__name__)
_RAPL = Path("/sys/class/powercap")
_MICRO, _MILLI = 1e-6, 1e-3


def can_measure_power(device: Device) -> bool:
    """Return whether this machine has an energy counter for a device.

    Examples
    --------
    >>> can_measure_power(Device("npu:x", "npu", "x", "a simulator", reality="simulated"))
    False
    """
    return energy_counter(device) is not None


def power_w(device: Device, call: Callable[[], object], *, duration_s: float = 1.0) -> float | None:
    """Measure the mean power while a call is repeated, idle power included.

    Parameters
    ----------
    device : Device
    call : callable
        The load; must not take much longer than `duration_s`.
    duration_s : float
        Counters are updated about every millisecond, so a short measurement is inaccurate.

    Returns
    -------
    float or None
        Watts; None without an energy counter.
    """
    read = energy_counter(device)
    if read is None:
        return None
    before_j, start_s = read(), time.perf_counter()
    while time.perf_counter() - start_s < duration_s:
        call()
    elapsed_s = time.perf_counter() - start_s
    after_j = read()
    used_j = after_j - before_j
    return used_j / elapsed_s if used_j > 0 else None  # negative where the counter wrapped


def energy_counter(device: Device) -> Callable[[], float] | None:
    """Return a function that reads the joules used by a device since an arbitrary moment; None without a counter.

    Readings increase, except where a counter wraps, and include everything else on the same package or card.
    """
    if not device.is_real:
        return None
    if device.kind == "cpu":
        return _rapl()
    return _nvml(device) if capabilities(device).vendor == "nvidia" else level_zero.energy_counter(device)


def _rapl() -> Callable[[], float] | None:
    """Sum of all packages; a zone with one colon in its name is a package, with two a part of one."""
    zones = [zone / "energy_uj" for zone in sorted(_RAPL.glob("intel-rapl:*")) if zone.name.count(":") == 1]

    def read() -> float:
        return sum(int(zone.read_text()) for zone in zones) * _MICRO

    try:
        return read if zones and read() >= 0 else None
    except (OSError, ValueError):  # no permission, or something else of that name
        return None


def _nvml(device: Device) -> Callable[[], float] | None:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(device.id.partition("#")[2] or 0))

        def read() -> float:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * _MILLI

        read()
    except Exception as error:  # not installed, no driver, or a GPU without a counter: exceptions of the package's own
        log.info("no energy counter for %s: %s", device.id, one_line(error))
        return None
    return read
