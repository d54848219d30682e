"""Fitted cost models: those of this machine on disk, and those that ship with trisect, fitted on another machine.

A shipped model says how the times of an engine's operators depend on their sizes, and what cuts cost. What is measured
on this machine corrects it: first its pace, then the kinds of operators and single ones. Where enough synthetic
networks were measured here, a model of this machine takes its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.files.cache_files import write_cache
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..stored.segment_store import MeasuredSegment, SegmentStore, load_segments
from .device_model import DeviceModel
from .regression import Regression
from .term_corrections import CorrectionPrior

_MIN_SEGMENTS, _MIN_BESIDE_SHIPPED = 100, 1500
"""A device with fewer measured segments of networks has no model of its own; the shipped one, if any, is better."""
_ROWS_MAX = 400
"""Newest measurements that correct a model: the time that it takes grows with their cube."""
_OTHER_MACHINE = CorrectionPrior(device=0.5, kind=0.35)
_OTHER_VERSION = CorrectionPrior(device=0.5, kind=0.5, similar=0.4)
_DIGITS = 4
_SHIPPED = Path(__file__).parent / "shipped_models"


class _StoredModel(msgspec.Struct):
    device: str
    weights: list[tuple[str, str, float]]
    """Kind, feature, weight."""
    ranges: dict[str, dict[str, tuple[float, float]]]
    """Kind -> size -> smallest and largest value of the training data."""


class _FittedModelsFile(msgspec.Struct):
    fitted_to: str
    """Hash of the training data."""
    models: list[_StoredModel]


class _ShippedModel(msgspec.Struct):
    """A file of the folder of shipped models."""

    source: str
    engine: str
    engine_version: str
    kind: str
    """Of the device."""
    machine: str
    date: str
    segments: int
    """Number of measured segments of synthetic networks that it was fitted to."""
    model: _StoredModel


def fitted_models(devices: Sequence[Device], segments: Path) -> dict[str, DeviceModel]:
    """Return the cost model of each device that has one, fitted now if the segments of this machine have changed.

    Parameters
    ----------
    devices : sequence of Device
    segments : Path
        File of measured segments; the models are stored beside it.

    Raises
    ------
    InvalidProfile
        When the file of segments cannot be read.
    """
    store = load_segments(segments) if os.path.exists(segments) else SegmentStore()
    models = _own_models(devices, store, segments)
    for device in devices:
        shipped = None if device.id in models else shipped_model(device)
        if shipped is not None:
            models[device.id] = shipped.refined(_of_networks(store, device)[-_ROWS_MAX:])
    return {
        device.id: models[device.id].refined([row for row in store.of(device) if row.origin != "network"][-_ROWS_MAX:])
        for device in devices
        if device.id in models
    }


def shipped_model(device: Device) -> DeviceModel | None:
    """Return the model of a device's engine that was fitted on another machine; None where there is none.

    One of another version of the engine is used, and less relied on, where there is none of this version.
    """
    file = _shipped_file(device)
    if file is None:
        return None
    prior = _OTHER_MACHINE if file.engine_version == device.engine_version else _OTHER_VERSION
    origin = f"{file.engine} {file.engine_version} on {file.machine}, {file.date}"
    return DeviceModel(_to_regression(file.model), prior, origin=origin)


def encode_shipped(model: DeviceModel, device: Device, *, date: str, machine: str, segments: int) -> bytes:
    """Return the file of a model to ship, fitted to networks that were measured on this machine."""
    file = _ShippedModel(
        "fitted to synthetic networks measured on another machine", device.engine, device.engine_version, device.kind,
        machine, date, segments, _to_stored(device.local_id, model.regression),
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(file), indent=0)


def _own_models(devices: Sequence[Device], store: SegmentStore, segments: Path) -> dict[str, DeviceModel]:
    """Return the models that are fitted to this machine's networks."""
    rows = {device.id: _of_networks(store, device) for device in devices}
    training = {d.id: rows[d.id] for d in devices if len(rows[d.id]) >= _segments_needed(d)}
    if not training:
        return {}
    identity = hashlib.sha256(repr(sorted((d, [r.time_s for r in rows]) for d, rows in training.items())).encode())
    path = segments.with_suffix(".fitted.json")
    try:
        file = decode_json(read_bytes(path), _FittedModelsFile)
    except (OSError, MalformedFile):
        file = None
    if file is None or file.fitted_to != identity.hexdigest():
        fitted = {device_id: DeviceModel.fit(networks, device_id) for device_id, networks in training.items()}
        stored = [_to_stored(device_id, model.regression) for device_id, model in fitted.items()]
        file = _FittedModelsFile(identity.hexdigest(), stored)
        write_cache(path, msgspec.json.encode(file), "fitted cost models")
    return {stored.device: DeviceModel(_to_regression(stored)) for stored in file.models}


def _segments_needed(device: Device) -> int:
    return _MIN_SEGMENTS if _shipped_file(device) is None else _MIN_BESIDE_SHIPPED


def _of_networks(store: SegmentStore, device: Device) -> tuple[MeasuredSegment, ...]:
    return tuple(row for row in store.of(device) if row.origin == "network")


@cache
def _shipped_files() -> tuple[_ShippedModel, ...]:
    return tuple(decode_json(read_bytes(path), _ShippedModel) for path in sorted(_SHIPPED.glob("*.json"), reverse=True))


def _shipped_file(device: Device) -> _ShippedModel | None:
    files = [file for file in _shipped_files() if (file.engine, file.kind) == (device.engine, device.kind)]
    return next((file for file in files if file.engine_version == device.engine_version), next(iter(files), None))


def _to_stored(device_id: str, regression: Regression) -> _StoredModel:
    rows = [
        (kind, name, round(float(regression.weights[i]), _DIGITS)) for (kind, name), i in regression.columns.items()
    ]
    return _StoredModel(device_id, rows, regression.ranges)


def _to_regression(stored: _StoredModel) -> Regression:
    columns = {(kind, name): i for i, (kind, name, _) in enumerate(stored.weights)}
    return Regression(columns, stored.ranges, np.array([weight for _, _, weight in stored.weights]))
