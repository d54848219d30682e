"""Chooses the devices for prefill and decode of a request from measurements, which are made when they are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InvalidModel, ProfileMissing
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..device_abilities import able_devices
from .fitting_choice import DeviceChoice, fitting_choice
from .model_memory import ModelSizes, devices_too_many
from .phase_measurement import ALL_LENGTHS, PhaseScope, is_measured, measure_phases
from .phase_prediction import rank_device_pairs
from .phase_profile import PhaseProfile, load_phases, phases_path, save_phases, stored_phases


def choose_devices(
    bundle: Bundle,
    prefill: str = "auto",
    decode: str = "auto",
    *,
    prompt_tokens: int,
    new_tokens: int,
    threads: int | None = None,
    precision: str = "fast",
    progress: Progress = no_progress,
) -> DeviceChoice:
    """Choose a device for each phase from measurements, and predict how long the request takes.

    Parameters
    ----------
    prefill, decode : str
        Allowed device ids or kinds, comma-separated, or ``auto``.
    prompt_tokens, new_tokens : int
        Size of the request; `new_tokens` is an upper limit.

    Raises
    ------
    UnknownDevice
        For a name that no engine on this machine lists.
    EngineFailed
        If no allowed device can run the model; before anything is measured.
    OutOfMemory
        If it fits into the memory of none.
    """
    wanted_devices = {"prefill": prefill, "decode": decode}
    candidates = {phase: able_devices(bundle, wanted, phase) for phase, wanted in wanted_devices.items()}
    devices = {device.id: device for allowed in candidates.values() for device in allowed}
    if all(len(allowed) == 1 for allowed in candidates.values()):
        try:
            load_phases(phases_path(bundle, precision, threads), bundle, list(devices.values()))
        except ProfileMissing:  # measuring half a minute is too long just to predict the only pair
            notes = _notes((prefill, decode), devices, {})
            choice = DeviceChoice(candidates["prefill"][0], candidates["decode"][0], (), notes)
            return fitting_choice(bundle, choice, list(candidates.values()), context_tokens=prompt_tokens + new_tokens)
    profile, excluded = measured_phases(
        bundle, devices, threads=threads, precision=precision,
        scope=PhaseScope(up_to_tokens=prompt_tokens + new_tokens), progress=progress,
    )  # fmt: skip
    for phase, wanted in wanted_devices.items():
        candidates[phase] = [device for device in candidates[phase] if device.id not in excluded]
        if not candidates[phase]:
            reasons = "; ".join(excluded.values())
            raise EngineFailed(f"no device of {wanted!r} can run {phase}: {reasons}", remedy="choose another device")
    predictions = rank_device_pairs(
        profile,
        prefill=[device.id for device in candidates["prefill"]],
        decode=[device.id for device in candidates["decode"]],
        prompt_tokens=prompt_tokens,
        new_tokens=min(new_tokens, max(1, bundle.context_length - prompt_tokens)),
    )
    best = predictions[0]
    notes = _notes((prefill, decode), devices, excluded)
    choice = DeviceChoice(devices[best.prefill], devices[best.decode], tuple(predictions), notes)
    allowed = [candidates["prefill"], candidates["decode"]]
    return fitting_choice(bundle, choice, allowed, context_tokens=prompt_tokens + new_tokens)


def measured_phases(
    bundle: Bundle,
    devices: Mapping[str, Device],
    *,
    threads: int | None,
    precision: str,
    scope: PhaseScope = ALL_LENGTHS,
    progress: Progress = no_progress,
) -> tuple[PhaseProfile, dict[str, str]]:
    """Return the phase profile of a model, from disk or measured now, and the devices that cannot run the model.

    Parameters
    ----------
    devices : mapping of str to Device
        By id.

    Returns
    -------
    profile : PhaseProfile
    excluded : dict of str to str
        Device id -> reason.

    Raises
    ------
    EngineFailed
        If no device can run the model, or an engine failed in a way that concerns no single device.
    """
    path = phases_path(bundle, precision, threads)
    able = dict(devices)
    excluded: dict[str, str] = {}
    for device in devices.values():
        try:
            bundle.graph_for(device)
        except (EngineFailed, InvalidModel) as error:
            del able[device.id]
            excluded[device.id] = error.message
    longest = max(*scope.prompts(bundle), *scope.contexts(bundle))
    for id_, reason in devices_too_many(ModelSizes.of(bundle), list(able.values()), longest).items():
        del able[id_]
        excluded[id_] = f"it does not fit into memory beside the others: {reason}"
    while able:
        known = stored_phases(path, bundle, list(able.values()))
        if known is not None and is_measured(known, bundle, list(able.values()), scope):
            return known, excluded
        try:
            profile = measure_phases(
                bundle, list(able.values()), threads=threads, precision=precision, scope=scope, known=known,
                checkpoint=lambda profile: save_phases(profile, path), progress=progress,
            )  # fmt: skip
            return profile, excluded
        except EngineFailed as error:
            if error.device not in able:
                raise
            del able[error.device]
            excluded[error.device] = error.message
    raise EngineFailed(f"no device can run {bundle.name}: {'; '.join(excluded.values())}", remedy="try another model")


def _notes(wanted: Sequence[str], devices: Mapping[str, Device], excluded: Mapping[str, str]) -> tuple[str, ...]:
    notes = [f"{device} is left out: {reason}" for device, reason in excluded.items()]
    able = [device for device in devices if device not in excluded]
    if "auto" in wanted and len(able) == 1:
        notes.append(f"{able[0]} is the only device here that can run this model: nothing to split over")
    return tuple(notes)
