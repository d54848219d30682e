"""Records where and when a measurement was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from trisect.runtime.device import Device
from trisect.runtime.engines.common.host_info import cpu_name

from .profile_data import Provenance


def provenance(devices: Sequence[Device], threads: int | None) -> Provenance:
    """Return the provenance of a measurement made on this machine now.

    Parameters
    ----------
    devices : sequence of Device
        The measured devices.
    threads : int, optional
        Computing threads of each engine; None = the engine's default.
    """
    try:
        load_average: float | None = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        load_average = None
    return Provenance(
        source="measured",
        host=platform.node(),
        cpu=cpu_name(),
        system=f"{platform.system()} {platform.machine()}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        engines={device.engine: device.engine_version for device in devices},
        load=load_average,
        threads=threads,
    )
