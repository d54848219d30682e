"""Chooses devices for a request at once: from what has been measured already, without measuring anything.

Known are, best first: this model's phases; the phases of other models on this machine, scaled by the size of the
models; and how engines keep a KV cache. Measuring takes half a minute or more: `device_choice.py` does so on request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from trisect.runtime.device import Device
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..bundle import Bundle
from ..device_abilities import able_devices
from .fitting_choice import DeviceChoice, fitting_choice
from .phase_prediction import PhasePrediction, rank_device_pairs
from .phase_profile import (
    MAX_FILE_BYTES,
    SCHEMA,
    DevicePhases,
    PhasePoint,
    PhaseProfile,
    invalid_curve,
    phases_path,
    stored_phases,
)

_PROFILES_MAX = 64
"""Profiles of other models that are looked at."""
_MEASURE = "`trisect profile --model FILE` measures them"
_logger = logging.getLogger(__name__)


def choose_at_once(
    bundle: Bundle,
    prefill: str = "auto",
    decode: str = "auto",
    *,
    prompt_tokens: int,
    new_tokens: int,
    threads: int | None = None,
    precision: str = "fast",
) -> DeviceChoice:
    """Choose a device for each phase from what is known now.

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
        If no allowed device can run the model.
    OutOfMemory
        If it fits into the memory of none.
    InvalidProfile
        If the stored profile of the model is damaged.
    """
    allowed = [able_devices(bundle, wanted, phase) for phase, wanted in (("prefill", prefill), ("decode", decode))]
    new_tokens = min(new_tokens, max(1, bundle.context_length - prompt_tokens))
    choice = _by_knowledge(
        bundle, allowed, phases_path(bundle, precision, threads), prompt_tokens=prompt_tokens, new_tokens=new_tokens
    )
    return fitting_choice(bundle, choice, allowed, context_tokens=prompt_tokens + new_tokens)


def _by_knowledge(
    bundle: Bundle, allowed: Sequence[Sequence[Device]], path: Path, *, prompt_tokens: int, new_tokens: int
) -> DeviceChoice:
    """Return the devices that are best by what is known, wherever the model fits into memory."""
    devices = {device.id: device for group in allowed for device in group}
    own = stored_phases(path, bundle, list(devices.values()))

    def ranked(profile: PhaseProfile) -> list[PhasePrediction]:
        first, second = (
            [d.id for d in group if d.id in profile.devices and _is_complete(profile.devices[d.id])]
            for group in allowed
        )
        pairs = {(row.source, row.target) for row in profile.handovers}
        singles = [id_ for id_ in first if id_ in second]
        if all((a, b) in pairs for a in first for b in second if a != b):
            return _ranked(profile, first, second, prompt_tokens, new_tokens)
        return [p for id_ in singles for p in _ranked(profile, [id_], [id_], prompt_tokens, new_tokens)]

    if own is not None and (predictions := ranked(own)):
        unmeasured = sorted(set(devices) - {id_ for id_, d in own.devices.items() if _is_complete(d)})
        notes = (f"{', '.join(unmeasured)} is not measured for this model: {_MEASURE}",) if unmeasured else ()
        return DeviceChoice(devices[predictions[0].prefill], devices[predictions[0].decode], tuple(predictions), notes)
    if len(devices) == 1 or all(len(group) == 1 for group in allowed):
        return DeviceChoice(allowed[0][0], allowed[1][0], ())
    for profile in _of_other_models(path, bundle, devices.values()):
        if predictions := ranked(profile):
            notes = (f"devices are chosen by measurements of another model: {_MEASURE} for this one",)
            best = predictions[0]
            return DeviceChoice(devices[best.prefill], devices[best.decode], tuple(predictions), notes)
    first, second = _by_capabilities(bundle, allowed)
    return DeviceChoice(first, second, (), (f"the devices are not measured for this model: {_MEASURE}",))


def _by_capabilities(bundle: Bundle, allowed: Sequence[Sequence[Device]]) -> tuple[Device, Device]:
    """Return one device for both phases if possible: the weights are then loaded once.

    Engines that extend a KV cache in place come first: they hand nothing over and need no second copy of it.
    """
    both = [device for device in allowed[0] if device in allowed[1]]
    if both:
        best = max(both, key=lambda device: bundle.mode_for(device) == "in-place")
        return best, best
    return allowed[0][0], allowed[1][0]


def _is_complete(device: DevicePhases) -> bool:
    return bool(device.prefill and device.decode)


def _ranked(
    profile: PhaseProfile, prefill: Sequence[str], decode: Sequence[str], prompt_tokens: int, new_tokens: int
) -> list[PhasePrediction]:
    if not prefill or not decode:
        return []
    return rank_device_pairs(
        profile, prefill=prefill, decode=decode, prompt_tokens=prompt_tokens, new_tokens=new_tokens
    )


def _of_other_models(path: Path, bundle: Bundle, devices: Collection[Device]) -> list[PhaseProfile]:
    """Return the phases of other models on this machine, scaled to this one, the model of the nearest size first."""
    profiles: list[PhaseProfile] = []
    if not bundle.flops_per_token or not bundle.decode_bytes_per_token:  # of operators whose work is not known
        return profiles
    prefix, suffix = path.stem.split(bundle.key)
    for file in sorted(path.parent.glob(f"{prefix}*{suffix}.json"))[:_PROFILES_MAX]:
        try:
            profile = decode_json(read_bytes(file, MAX_FILE_BYTES), PhaseProfile)
        except (OSError, MalformedFile) as error:
            _logger.info("not used for a prediction: %s: %s", file, error)
            continue
        is_usable = profile.schema <= SCHEMA and profile.flops_per_token > 0 and not invalid_curve(profile)
        if is_usable and profile.model != bundle.key:
            profiles.append(profile)
    profiles.sort(key=lambda profile: abs(math.log(profile.flops_per_token / bundle.flops_per_token)))
    return [_scaled(profile, bundle, devices) for profile in profiles]


def _scaled(profile: PhaseProfile, bundle: Bundle, devices: Collection[Device]) -> PhaseProfile:
    """Return the phases of a model, scaled to those of another one.

    Prefill is bound by computing, decode by reading the weights, and a hand-over by copying the cache.
    """
    versions = {device.id: (device.name, device.engine_version) for device in devices}
    prefill = bundle.flops_per_token / profile.flops_per_token
    decode = bundle.decode_bytes_per_token / max(1, profile.decode_bytes_per_token)
    cache = bundle.cache_bytes_per_token / max(1, profile.cache_bytes_per_token)
    valid = {
        id_: replace(d, prefill=_times(d.prefill, prefill), decode=_times(d.decode, decode))
        for id_, d in profile.devices.items()
        if versions.get(id_) == (d.name, d.engine_version)
    }
    handovers = tuple(replace(row, points=_times(row.points, cache)) for row in profile.handovers if row.points)
    return replace(profile, devices=valid, handovers=handovers)


def _times(points: Sequence[PhasePoint], factor: float) -> tuple[PhasePoint, ...]:
    return tuple(replace(point, time_s=point.time_s * factor) for point in points)
