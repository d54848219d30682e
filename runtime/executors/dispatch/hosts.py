"""What an executor brings to the dispatcher: hosts for the segments, and the memory between them.

The dispatcher decides what runs when; a `Host` is where one device's segments live, and a `Crew` is all hosts of a plan
with whatever they share. What a tensor is, is theirs alone: an array here, a reference to another node there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ...device import Device
from ...engines import discover
from ...errors import EngineFailed, UnknownDevice
from ...plans.plan import Plan
from ...plans.plan_parts import Segment
from ...tensors.tensor_spec import Arrays
from ...workers.worker_client import Ran

__all__ = ["Crew", "Host", "Ran", "Tensor", "refuse_absent", "segments_on"]

Tensor = Any
"""Whatever a crew passes between its hosts; the dispatcher asks it for its ``nbytes`` only."""


class Host(Protocol):
    """Where the segments of one device live."""

    @property
    def can_kill(self) -> bool:
        """Whether a run that hangs can be ended."""

    def open(self) -> None:
        """Load the segments; called again to start over after `DeviceLost`. Always on the device's own thread.

        Raises
        ------
        EngineFailed
            Naming the segment that the engine refuses.
        """

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute one segment; one call at a time.

        Raises
        ------
        DeviceLost
            When whoever computes is gone; the call may be made again after `open`.
        """

    def kill(self) -> None:
        """Have the `run` that another thread is in end with `DeviceLost`."""

    def close(self) -> None:
        """Give everything back. Always on the device's own thread, once."""


class Crew(Protocol):
    """The hosts of a plan, by device id."""

    @property
    def hosts(self) -> Mapping[str, Host]: ...

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """An item's feeds, for the hosts to read."""

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """An item's outputs, for the caller to keep."""

    def close(self) -> None:
        """Give back what the hosts shared, after all of them are closed."""


def segments_on(plan: Plan) -> dict[Device, list[Segment]]:
    """The devices that a plan really uses, with their segments."""
    found: dict[Device, list[Segment]] = {}
    devices = {device.id: device for device in plan.devices}
    for segment in plan.segments:
        found.setdefault(devices[segment.device], []).append(segment)
    return found


def refuse_absent(device: Device, error: EngineFailed) -> None:
    """Say of a device that could not load a segment that it is not here at all, where that is why.

    Raises
    ------
    UnknownDevice
        Naming the devices of this machine.
    """
    here = [found.id for found in discover()]
    if device.is_real and device.id not in here:
        raise UnknownDevice(
            f"the plan was made for {device.id} ({device.name}), which this machine does not have",
            remedy=f"split again for {', '.join(here)}",
        ) from error
