"""Writes the cost models that ship with trisect: fitted to the synthetic networks that were measured here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.fitted_models import encode_shipped
from trisect.profiles.stored.segment_store import load_segments, segments_path
from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.device import Device


def write_models(folder: Path, devices: Sequence[Device]) -> list[Path]:
    """Fit a cost model of each device, and write it as a file to ship.

    Parameters
    ----------
    folder : Path
        Where the files go; ``profiles/costmodel/shipped_models`` in the source tree.
    devices : sequence of Device
        Of this machine; ``trisect profile --networks`` has to have measured networks on them.

    Returns
    -------
    list of Path

    Raises
    ------
    ProfileMissing
        Where too few networks were measured.
    """
    store = load_segments(segments_path())
    written = []
    for device in devices:
        rows = [row for row in store.of(device) if row.origin == "network"]
        machine = f"{os.cpu_count()} cores of {device.name}"
        path = folder / f"{device.kind}-{device.engine}-{device.engine_version}.json"
        content = encode_shipped(
            DeviceModel.fit(rows, device.id), device, date=f"{date.today()}", machine=machine, segments=len(rows)
        )
        write_atomically(path, content)
        written.append(path)
    return written
