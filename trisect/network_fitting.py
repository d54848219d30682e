"""Learning what segments take from made-up networks, and planning with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trisect.partitioner.costs.model_costs import LearnedCosts
from trisect.partitioner.costs.network_measurement import learn_from_model, learn_from_networks
from trisect.profiles.costmodel.fitted_models import fitted_models
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.stored.profile_data import Profile
from trisect.profiles.stored.segment_store import (
    MeasuredSegment,
    SegmentStore,
    load_segments,
    save_segments,
    segments_path,
)
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress


def learn(
    wanted: str | Iterable[str] = "auto",
    *,
    budget_s: float = 120.0,
    model: str | Path | None = None,
    shapes: Mapping[str, int] | None = None,
    progress: Progress = no_progress,
) -> SegmentStore:
    """Measure made-up networks, whole and cut over devices, and store what their segments took.

    A later call goes on with further networks; splits then go by what was learned.

    Parameters
    ----------
    wanted : str or iterable of str
        As for `devices`; ``"auto"`` leaves out simulated and software devices.
    budget_s : float
        After so long no further network is begun.
    model : path, optional
        An ONNX file that is then run whole on each device, to know its own operators better.
    shapes : mapping of str to int, optional
        Sizes of its symbolic dimensions.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For fewer than two devices.
    TrisectError
        For a model that cannot be read or run.
    InvalidProfile
        When what is stored cannot be read; it is left as it is.
    """
    chosen = engines.find_hardware(wanted)
    if len(chosen) < 2:
        raise InvalidInput(
            f"only {', '.join(d.id for d in chosen)} would be measured", remedy="name two devices or more"
        )
    path = segments_path()
    found = learn_from_networks(
        chosen, load_segments(path), budget_s=budget_s, keep=lambda store: save_segments(store, path), progress=progress
    )
    if model is not None:
        found = learn_from_model(Path(model), shapes or {}, chosen, found)
        save_segments(found, path)
    return found


def learn_segments(devices: Sequence[Device], found: Mapping[str, Sequence[MeasuredSegment]]) -> None:
    """Keep what the segments of a user's plan took, for later predictions.

    Raises
    ------
    InvalidProfile
        When what is stored cannot be read; it is left as it is.
    """
    path = segments_path()
    store = load_segments(path)
    save_segments(store.adding(devices, found, store.networks, 0.0), path)


def costs_of(known: Profile, chosen: Sequence[Device]) -> ProfileCosts:
    """What a planner goes by: the profile, and for devices that enough was learned of, how operators fare together."""
    models = fitted_models(chosen, segments_path(known.precision)) if known.provenance.source == "measured" else {}
    return LearnedCosts(known, models) if models else ProfileCosts(known)
