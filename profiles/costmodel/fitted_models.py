"""Fitted cost models on disk, so that a split need not fit them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.files.cache_files import write_cache
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..stored.segment_store import MeasuredSegment, load_segments
from .device_model import DeviceModel
from .regression import Regression

_MIN_SEGMENTS = 100
"""A device with fewer measured segments has no cost model: its operators are costed one by one."""


class _StoredModel(msgspec.Struct):
    device: str
    residual: float
    weights: list[tuple[str, str, float]]
    """Kind, feature, weight."""
    ranges: dict[str, dict[str, tuple[float, float]]]
    """Kind -> size -> smallest and largest value of the training data."""


class _FittedModelsFile(msgspec.Struct):
    fitted_to: str
    """Hash of the training data."""
    models: list[_StoredModel]


def fitted_models(devices: Sequence[Device], segments: Path) -> dict[str, DeviceModel]:
    """Return the cost model of each device with enough measured segments, fitted now if the segments have changed.

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
    if not os.path.exists(segments):
        return {}
    store = load_segments(segments)
    training = {device.id: store.of(device) for device in devices if len(store.of(device)) >= _MIN_SEGMENTS}
    identity = hashlib.sha256(segments.read_bytes() + repr(sorted(training)).encode()).hexdigest()
    path = segments.with_suffix(".fitted.json")
    try:
        file = decode_json(read_bytes(path), _FittedModelsFile)
    except (OSError, MalformedFile):
        file = None
    if file is not None and file.fitted_to == identity:
        models = {stored.device: _to_model(stored) for stored in file.models}
    else:
        models = {device_id: DeviceModel.fit(rows, device_id) for device_id, rows in training.items()}
        file = _FittedModelsFile(identity, [_to_stored(device_id, model) for device_id, model in models.items()])
        write_cache(path, msgspec.json.encode(file), "fitted cost models")
    return {device_id: _with_own_segments(model, training[device_id]) for device_id, model in models.items()}


def _with_own_segments(model: DeviceModel, rows: Sequence[MeasuredSegment]) -> DeviceModel:
    """Refine a model with the measured segments of users' models."""
    own = [row for row in rows if row.origin != "network"]
    return model.refined(own) if own else model


def _to_stored(device_id: str, model: DeviceModel) -> _StoredModel:
    regression = model.regression
    rows = [(kind, name, float(regression.weights[i])) for (kind, name), i in regression.columns.items()]
    return _StoredModel(device_id, model.residual, rows, regression.ranges)


def _to_model(stored: _StoredModel) -> DeviceModel:
    columns = {(kind, name): i for i, (kind, name, _) in enumerate(stored.weights)}
    weights = np.array([weight for _, _, weight in stored.weights])
    return DeviceModel(Regression(columns, stored.ranges, weights), stored.residual)
