"""Measures synthetic networks, fits cost models to them, and plans with these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trisect.partitioner.costs.network_measurement import (
    measure_model,
    measure_networks,
)
from trisect.profiles.costmodel.fitted_models import fitted_models
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.drift.drift_factor import drift
from trisect.profiles.stored.profile_data import Profile
from trisect.profiles.stored.segment_store import (
    MeasuredSegment,
    SegmentStore,
    load_segments,
    segments_path,
    update_segments,
)
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, StorageFailed
from trisect.runtime.files.cache_files import not_cached
from trisect.runtime.progress import Progress, no_progress


def fit_on_networks(
    wanted: str | Iterable[str] = "auto",
    *,
    budget_s: float = 120.0,
    model: str | Path | None = None,
    shapes: Mapping[str, int] | None = None,
    progress: Progress = no_progress,
) -> SegmentStore:
    """Measure synthetic networks, whole and cut over devices, and store the times of their segments.

    A later call continues with further networks. Later splits use cost models that are fitted to the measurements.

    Parameters
    ----------
    wanted : str or iterable of str
        As for `devices`; ``"auto"`` leaves out simulated and software devices.
    budget_s : float
        Time after which no further network is started.
    model : path, optional
        An ONNX file that is then run whole on each device, to correct the costs of its operators.
    shapes : mapping of str to int, optional
        Sizes of its symbolic dimensions.

    Raises
    ------
    InvalidInput
        For fewer than two devices.
    TrisectError
        When the model cannot be read or run.
    InvalidProfile
        When the stored measurements cannot be read; they are left as they are.
    """
    chosen = engines.find_hardware(wanted)
    if len(chosen) < 2:
        raise InvalidInput(
            f"expected two devices or more, found {', '.join(d.id for d in chosen)}", remedy="name another device"
        )
    path = segments_path()
    segments = measure_networks(
        chosen,
        load_segments(path),
        budget_s=budget_s,
        save=lambda store: update_segments(path, store.joined),
        progress=progress,
    )
    if model is not None:
        segments = measure_model(Path(model), shapes or {}, chosen, segments)
        segments = update_segments(path, segments.joined)
    return segments


def store_segments(devices: Sequence[Device], measured: Mapping[str, Sequence[MeasuredSegment]]) -> None:
    """Store the times of the segments of a user's plan, for later predictions.

    Raises
    ------
    InvalidProfile
        When the stored measurements cannot be read; they are left as they are.
    """
    try:
        update_segments(segments_path(), lambda store: store.extended(devices, measured, store.networks, 0.0))
    except StorageFailed as error:
        not_cached("times of segments", error)


def costs_of(known: Profile, chosen: Sequence[Device], probes_s: Mapping[str, float] | None = None) -> ProfileCosts:
    """Return the costs of a profile, with the fitted cost models of those devices that have enough measurements.

    Parameters
    ----------
    probes_s : mapping of str to float, optional
        Device id -> seconds of its probe at present: costs are scaled where that has changed.
    """
    models = fitted_models(chosen, segments_path(known.precision)) if known.provenance.source == "measured" else {}
    now_s = probes_s or {}
    drifts = {key: drift(device.probe_s, now_s.get(key)) for key, device in known.devices.items()}
    return ProfileCosts(known, models, drifts)
