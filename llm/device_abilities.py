"""Checks which devices can run a language model before any is measured or loaded, and describes them for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.common.decoder_support import KvCacheMode
from trisect.runtime.errors import EngineFailed, InvalidModel

from .bundle import Bundle, check_decoder_support
from .gate.numeric_gate import is_proved, known_verdict

Role = Literal["yes", "alone", "no"]
"""Whether a device can take a phase: with any device for the other one, only if it takes both, or not at all."""
State = Literal["proved on hardware", "proved on a stand-in", "not yet"]
"""Where language models gave right answers on such a device."""


@dataclass(frozen=True)
class DeviceAbilities:
    """What a device can do with a language model."""

    device: str
    prefill: Role
    decode: Role
    mode: KvCacheMode | None
    """How it keeps the KV cache; None = it cannot run the model."""
    state: State
    attention_dtypes: tuple[str, ...] = ()
    max_run_tokens: int | None = None
    """New tokens that it computes correctly in one run at most; None = any number."""
    verdict: str = "not checked yet: its first use does"
    """What the check of its numbers for this model and precision gave."""
    reason: str = ""
    """Why it cannot run the model, with the remedy."""


def check_wanted(*wanted: str) -> None:
    """Reject names that no engine lists, and devices that run no language model, before anything slow begins.

    Raises
    ------
    UnknownDevice
        With the most similar name and the list of available devices.
    EngineFailed
        If none of the devices of a name can run language models: device, reason and remedy in one line.
    """
    for names in wanted:
        devices = engines.find_hardware(names)
        refused: list[EngineFailed] = []
        for device in devices:
            try:
                check_decoder_support(device, engines.decoder_support(device))
            except EngineFailed as error:
                refused.append(error)
        if len(refused) == len(devices):
            raise refused[0]


def able_devices(bundle: Bundle, wanted: str, phase: str) -> list[Device]:
    """Return the devices among the wanted ones that can run the model.

    Parameters
    ----------
    wanted : str
        Device ids or kinds, comma-separated, or ``auto``.
    phase : str
        For the message.

    Raises
    ------
    EngineFailed
        If there is none, with the reason of each.
    """
    able, reasons = [], []
    for device in engines.find_hardware(wanted):
        try:
            bundle.mode_for(device)
            able.append(device)
        except (EngineFailed, InvalidModel) as error:
            reasons.append(error.message)
    if not able:
        reason = f"no device of {wanted!r} can run {phase}: {'; '.join(reasons)}"
        raise EngineFailed(reason, remedy="choose another device")
    return able


def device_abilities(bundle: Bundle, device: Device, precision: str = "fast") -> DeviceAbilities:
    """Return what a device can do with a model, by what its engine states and what is known of its numbers."""
    support = engines.decoder_support(device)
    states: dict[str, State] = {"hardware": "proved on hardware", "stand-in": "proved on a stand-in", "none": "not yet"}
    state = states[support.evidence]
    try:
        mode = bundle.mode_for(device)
    except (EngineFailed, InvalidModel) as error:
        return DeviceAbilities(
            device.id, "no", "no", None, state, support.attention_dtypes, verdict="", reason=str(error)
        )
    known = known_verdict(bundle, device, precision)
    verdict = f"right: tests compare engine version {device.engine_version}" if is_proved(device) else ""
    verdict = known.text if known is not None else verdict or DeviceAbilities.verdict
    is_wrong = known is not None and not known.is_right
    return DeviceAbilities(
        device=device.id,
        prefill="no" if is_wrong else "yes" if support.exports_cache else "alone",
        decode="no" if is_wrong else "yes" if support.imports_cache else "alone",
        mode=mode,
        state=state,
        attention_dtypes=support.attention_dtypes,
        max_run_tokens=None if known is None else known.max_run_tokens,
        verdict=verdict,
        reason=known.reason if is_wrong and known is not None else "",
    )
