"""Checks a device's numbers before its first answer with a model, and says so: it can take minutes on a slow device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import note, progress_bar

if TYPE_CHECKING:
    from trisect.llm.bundle import Bundle
    from trisect.runtime.device import Device


def check_numbers_first(bundle: Bundle, *devices: Device, precision: str = "fast") -> None:
    """Check the devices that were not checked yet, with a progress bar.

    Raises
    ------
    EngineFailed
        If the numbers of one are wrong.
    """
    from trisect.llm.gate.numeric_gate import check_numbers, is_unchecked

    once = list(dict.fromkeys(devices))
    unchecked = [device.id for device in once if is_unchecked(bundle, device, precision)]
    if unchecked:
        note(f"checking the numbers of {' and '.join(unchecked)} against float32 on the CPU: once for this model")
    with progress_bar("checking") as progress:
        check_numbers(bundle, once, precision=precision, progress=progress)
