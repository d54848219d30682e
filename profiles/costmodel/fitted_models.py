"""Fitted cost models on disk, so that a split does not fit them anew: weights with their names, and of which data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from trisect.runtime.device import Device

from ..stored.profile_store import write_aside
from ..stored.segment_store import MeasuredSegment, load_segments
from .device_model import DeviceModel
from .regression import Regression

_FEWEST_SEGMENTS = 100
"""With fewer, a device is judged by its operators alone."""


class _Weights(msgspec.Struct):
    device: str
    residual: float
    weights: list[tuple[str, str, float]]
    """Kind, size or mark, weight."""
    ranges: dict[str, dict[str, tuple[float, float]]]
    """Kind -> size -> between what it was."""


class _File(msgspec.Struct):
    fitted_to: str
    models: list[_Weights]


def fitted_models(devices: Sequence[Device], segments: Path) -> dict[str, DeviceModel]:
    """A model of each device of which enough segments were measured; fitted now where they changed since.

    Parameters
    ----------
    devices : sequence of Device
    segments : Path
        File of measured segments; the models are kept beside it.

    Raises
    ------
    InvalidProfile
        When the file of segments cannot be read.
    """
    if not segments.exists():
        return {}
    store = load_segments(segments)
    known = {device.id: store.of(device) for device in devices if len(store.of(device)) >= _FEWEST_SEGMENTS}
    identity = hashlib.sha256(segments.read_bytes() + repr(sorted(known)).encode()).hexdigest()
    path = segments.with_suffix(".fitted.json")
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError):
        file = None
    if file is not None and file.fitted_to == identity:
        return {model.device: _remembering(_model(model), known[model.device]) for model in file.models}
    models = {device_id: DeviceModel.learn(rows, device_id) for device_id, rows in known.items()}
    write_aside(path, msgspec.json.encode(_File(identity, [_weights(key, model) for key, model in models.items()])))
    return {device_id: _remembering(model, known[device_id]) for device_id, model in models.items()}


def _remembering(model: DeviceModel, rows: Sequence[MeasuredSegment]) -> DeviceModel:
    """With what was measured of users' own models."""
    own = [row for row in rows if row.origin != "network"]
    return model.remembering(own) if own else model


def _weights(device_id: str, model: DeviceModel) -> _Weights:
    columns = model.regression.columns
    rows = [(kind, name, float(model.regression.weights[i])) for (kind, name), i in columns.items()]
    return _Weights(device_id, model.residual, rows, model.regression.ranges)


def _model(stored: _Weights) -> DeviceModel:
    columns = {(kind, name): i for i, (kind, name, _) in enumerate(stored.weights)}
    weights = np.array([weight for _, _, weight in stored.weights])
    return DeviceModel(Regression(columns, stored.ranges, weights), stored.residual)
