"""Replaces devices on which a model would not fit into memory by others, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trisect.runtime.device import Device
from trisect.runtime.errors import OutOfMemory

from ..bundle import Bundle
from .model_memory import ModelSizes, longest_context, memory_need, memory_pools, shortage
from .phase_prediction import PhasePrediction


@dataclass(frozen=True)
class DeviceChoice:
    """Devices chosen for a request, with the predictions that they were chosen by."""

    prefill: Device
    decode: Device
    predictions: tuple[PhasePrediction, ...]
    """Of all allowed pairs, best first; empty if there was one pair only and nothing is measured."""
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> PhasePrediction | None:
        """Prediction for the chosen pair."""
        return self.predictions[0] if self.predictions else None


def fitting_choice(
    bundle: Bundle, choice: DeviceChoice, allowed: Sequence[Sequence[Device]], *, context_tokens: int
) -> DeviceChoice:
    """Return the chosen devices if the model fits there, else the best pair or single device on which it does.

    Parameters
    ----------
    allowed : sequence of sequence of Device
        Devices for prefill, and those for decode.
    context_tokens : int
        Tokens of prompt and answer.

    Raises
    ------
    OutOfMemory
        If it fits nowhere; with what it needs, what is free, and the longest context that fits.
    """
    model = ModelSizes.of(bundle)
    reason = shortage(model, (choice.prefill, choice.decode), context_tokens)
    if not reason:
        return choice
    devices = {device.id: device for group in allowed for device in group}
    singles = [device for device in allowed[0] if device in allowed[1]]
    singles.sort(key=lambda device: memory_need(model, (device,), context_tokens).total_bytes)
    pairs = [(devices[p.prefill], devices[p.decode]) for p in choice.predictions]
    for first, second in [*pairs, *((device, device) for device in singles)]:
        if not shortage(model, (first, second), context_tokens):
            others = [p for p in choice.predictions if (p.prefill, p.decode) != (choice.prefill.id, choice.decode.id)]
            others.sort(key=lambda p: (p.prefill, p.decode) != (first.id, second.id))
            known = bool(others) and (others[0].prefill, others[0].decode) == (first.id, second.id)
            instead = first.id if first.id == second.id else f"{first.id} -> {second.id}"
            note = f"{reason}: {instead} is used instead"
            return DeviceChoice(first, second, tuple(others) if known else (), (*choice.notes, note))
    smallest = [*singles, choice.prefill][:1] if singles else [choice.prefill, choice.decode]
    fits = min(longest_context(model, pool.devices, pool.available_bytes or 0) for pool in memory_pools(smallest))
    reason = shortage(model, smallest, context_tokens) or reason
    if fits:
        remedy = f"free some memory, or use a context of at most {fits} tokens, which fits"
    else:
        remedy = "free some memory, or use a smaller model"
    raise OutOfMemory(f"{bundle.name} does not fit: {reason}", remedy=remedy)
