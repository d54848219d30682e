"""The power that a device draws while it works, where the machine can tell; where not, nothing is made up.

Processors of Intel and AMD count their packages' energy (RAPL, on Linux readable by root or whoever was allowed to),
NVIDIA's GPUs theirs (NVML, through the package nvidia-ml-py), Intel's GPUs and NPUs theirs where their driver lets
them (Level-Zero, through pyzes). Others have no counter that is read here.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trisect.runtime.device import Device

from . import level_zero as levelzero

_RAPL = Path("/sys/class/powercap")
_MICRO, _MILLI = 1e-6, 1e-3


def can_measure_power(device: Device) -> bool:
    """Whether this machine counts the energy of a device.

    Examples
    --------
    >>> can_measure_power(Device("npu:x", "npu", "x", "a simulator", reality="simulated"))
    False
    """
    return energy_counter(device) is not None


def power_w(device: Device, call: Callable[[], object], *, lasting_s: float = 1.0) -> float | None:
    """Mean power while a call is repeated, that of the idle machine included.

    Parameters
    ----------
    device : Device
    call : callable
        The work; must not take much longer than `lasting_s`.
    lasting_s : float
        Counters move every millisecond or so: shorter is not exact.

    Returns
    -------
    float or None
        Watts; None where nothing on this machine tells.
    """
    read = energy_counter(device)
    if read is None:
        return None
    before_j, start_s = read(), time.perf_counter()
    while time.perf_counter() - start_s < lasting_s:
        call()
    elapsed_s = time.perf_counter() - start_s
    after_j = read()
    used_j = after_j - before_j
    return used_j / elapsed_s if used_j > 0 else None  # less than before: it wrapped


def energy_counter(device: Device) -> Callable[[], float] | None:
    """What reads the joules that a device has used since some moment; None where nothing on this machine tells.

    Readings grow, except where a counter wraps, and everything else on the same package or board is in them too.
    """
    if not device.is_real:
        return None
    if device.kind == "cpu":
        return _rapl()
    return _nvml(device) if device.engine == "cuda" else levelzero.energy_counter(device)


def _rapl() -> Callable[[], float] | None:
    """Of all packages together; a zone with one colon is a package, with two a part of one."""
    zones = [zone / "energy_uj" for zone in sorted(_RAPL.glob("intel-rapl:*")) if zone.name.count(":") == 1]

    def read() -> float:
        return sum(int(zone.read_text()) for zone in zones) * _MICRO

    try:
        return read if zones and read() >= 0 else None
    except (OSError, ValueError):  # not allowed, or something else of that name
        return None


def _nvml(device: Device) -> Callable[[], float] | None:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(device.id.partition("#")[2] or 0))

        def read() -> float:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * _MILLI

        read()
    except Exception:  # not installed, no driver, or a GPU that does not count
        return None
    return read
