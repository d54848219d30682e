"""Uses a profile of another machine as a prior: scaled to this machine, and only for what was not measured here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import geometric_mean

import msgspec

from ..stored.profile_data import DeviceProfile, Point, Profile
from .op_features import OpClass


def with_prior(own: Profile, prior: Profile) -> tuple[Profile, tuple[str, ...]]:
    """Return a profile for costs, with operator cases that only another machine has measured, and whose they are.

    The times of a device are scaled by what it takes here for the cases that both have measured: of the same class of
    operators, or else of all. Devices without common cases, and all links and overheads, stay as they are.

    Returns
    -------
    Profile
        Not to be stored: it contains times that were not measured here.
    tuple of str
        Ids of the devices to which cases were added.
    """
    devices = dict(own.devices)
    for device_id, device in own.devices.items():
        other = prior.devices.get(device_id)
        if other is not None and (more := _scaled_points(device, other)):
            devices[device_id] = msgspec.structs.replace(device, points=(*device.points, *more))
    added = tuple(key for key, device in devices.items() if device is not own.devices[key])
    return replace(own, devices=devices), added


def _scaled_points(own: DeviceProfile, other: DeviceProfile) -> list[Point]:
    known = {point.case: point for point in own.points}
    common = [(known[point.case], point) for point in other.points if point.case in known]
    if not common:
        return []
    classes = {op_class: [pair for pair in common if pair[1].op_class is op_class] for op_class in OpClass}
    return [
        replace(point, time_s=point.time_s * _ratio(classes[point.op_class] or common))
        for point in other.points
        if point.case not in known and point.case not in own.refused
    ]


def _ratio(pairs: Iterable[tuple[Point, Point]]) -> float:
    return geometric_mean(here.time_s / there.time_s for here, there in pairs)
