"""The interface between the dispatcher and an executor: hosts that run segments, and groups of them.

The dispatcher decides what runs when. A `Host` runs the segments of one device; a `HostGroup` holds all hosts of a plan
and what they share. Only they know what a tensor is: an array, or a reference to an object on another node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ...device import Device
from ...plans.plan import Plan
from ...plans.plan_parts import Segment
from ...tensors.tensor_spec import Arrays
from ...workers.worker_client import SegmentRun

__all__ = ["Host", "HostGroup", "SegmentRun", "Tensor", "segments_by_device"]

Tensor = Any
"""What a host group passes between its hosts; the dispatcher uses its ``dtype``, ``shape`` and ``nbytes`` only."""


class Host(Protocol):
    """Loads and runs the segments of one device."""

    @property
    def can_kill(self) -> bool:
        """Whether a run that hangs can be ended."""

    def open(self) -> None:
        """Load the segments; called again to restart after `DeviceLost`. Always on the device's own thread.

        Raises
        ------
        EngineFailed
            Where the engine refuses a segment; names the segment.
        """

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> SegmentRun:
        """Compute one segment; one call at a time.

        Raises
        ------
        DeviceLost
            Where the worker is gone; the call can be repeated after `open`.
        """

    def kill(self) -> None:
        """Make the `run` of another thread end with `DeviceLost`."""

    def close(self) -> None:
        """Free everything. Always on the device's own thread, once."""


class HostGroup(Protocol):
    """The hosts of a plan."""

    @property
    def hosts(self) -> Mapping[str, Host]:
        """By device id."""

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """Convert an item's feeds to tensors that the hosts can read."""

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Convert an item's outputs to arrays that the caller owns."""

    def close(self) -> None:
        """Free what the hosts share, after all of them are closed."""


def segments_by_device(plan: Plan) -> dict[Device, list[Segment]]:
    """Return the devices that the segments of a plan use, each with its segments."""
    segments: dict[Device, list[Segment]] = {}
    devices = {device.id: device for device in plan.devices}
    for segment in plan.segments:
        segments.setdefault(devices[segment.device], []).append(segment)
    return segments
