"""Says what a profile lacks, so that predictions from it are known to be less certain."""

from __future__ import annotations

from collections.abc import Sequence

from trisect.profiles.drift.drift_factor import drift_text
from trisect.profiles.measuring.case_variants import VARIANT_SEPARATOR
from trisect.profiles.measuring.contention import EXECUTORS, contending_pairs
from trisect.profiles.measuring.memory_measurement import has_own_memory
from trisect.profiles.measuring.operator_cases import small_cases, standard_cases
from trisect.profiles.stored.profile_data import DeviceProfile, Profile
from trisect.runtime.device import Device


def measurement_gaps(profile: Profile, devices: Sequence[Device]) -> list[str]:
    """Return a sentence for each device whose measurement is incomplete or doubtful, and for unmeasured contention."""
    sentences = []
    for device in devices:
        known = profile.devices.get(device.id)
        if known is None:
            sentences.append(f"{device.id} is not measured")
            continue
        missing = _missing(known, device)
        if missing:
            sentences.append(f"not measured of {device.id}: {', '.join(missing)}; its predictions are less certain")
        if known.slowed != 1.0:
            sentences.append(
                f"{device.id} became {drift_text(known.slowed)} while it was measured; its predictions are less certain"
            )
    rows = {(row.device, row.beside, row.executor) for row in profile.contention}
    for first, second in contending_pairs(devices):
        missing = [executor for executor in EXECUTORS if (first.id, second.id, executor) not in rows]
        if missing:
            sentences.append(
                f"not measured of {first.id} and {second.id}: how they slow each other in {' and '.join(missing)}; "
                "throughputs of both together are predicted too high"
            )
    return sentences


def _missing(known: DeviceProfile, device: Device) -> list[str]:
    cases = standard_cases() if device.is_real else small_cases()
    measured = {point.case.partition(VARIANT_SEPARATOR)[0] for point in known.points} | set(known.refused)
    left = [case for case in cases if case.name not in measured]
    missing = [f"{len(left)} of {len(cases)} operator cases"] if left else []
    if not known.memory and not has_own_memory(device):
        missing.append("memory")
    return missing
