"""The machine of a placement problem: links between devices, call overhead, power, memory, and interference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trisect.profiles.costmodel.call_costs import WakeupCosts
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.memory_need import MemoryNeed

from .core_sharing import CoreSharing


@dataclass(frozen=True)
class Platform:
    """What holds for devices whatever tasks they run; all keyed by device id.

    Examples
    --------
    >>> machine = Platform({("cpu:a", "gpu:b"): LinkCost(latency_s=1.0, bytes_per_s=1e3)})
    >>> machine.link("cpu:a", "gpu:b").time_s(1000), machine.link("gpu:b", "cpu:a").time_s(1000)
    (2.0, 0.0)
    """

    links: Mapping[tuple[str, str], LinkCost] = field(default_factory=dict)
    """(Source, target) -> cost of moving data from one to the other."""
    default_link: LinkCost = field(default_factory=LinkCost)
    """Between devices that `links` does not list."""
    call_overhead_s: Mapping[str, float] = field(default_factory=dict)
    """Fixed time of each call of a segment; missing devices: 0."""
    power_w: Mapping[str, float] = field(default_factory=dict)
    """Power drawn while a device works; unknown for missing devices."""
    memory: Mapping[str, MemoryNeed] = field(default_factory=dict)
    """Measured memory use of segments; for missing devices weights and tensors count as they are."""
    core_sharing: CoreSharing = field(default_factory=CoreSharing)
    """Interference of devices on the same cores. Only schedules include it: loads and bounds without it hold all the
    more."""
    wakeup_costs: WakeupCosts | None = None
    """How much longer calls take after other devices used the same cores; None where not measured."""

    def link(self, source: str, target: str) -> LinkCost:
        """Return the cost of moving data between two different devices."""
        return self.links.get((source, target), self.default_link)
