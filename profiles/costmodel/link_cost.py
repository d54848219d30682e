"""The cost of moving data between two devices: latency plus size over bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class LinkCost:
    """Linear cost of a link, as in Topcuoglu et al. 2002, https://doi.org/10.1109/71.993206.

    Examples
    --------
    >>> LinkCost(latency_s=1.0, bytes_per_s=1e3).time_s(1000)
    2.0
    >>> LinkCost(3e-5).time_s(10**9)
    3e-05
    """

    latency_s: float = 0.0
    bytes_per_s: float = inf
    """Infinite where the time does not depend on the size: passed by reference."""

    def time_s(self, size_bytes: float) -> float:
        """Return seconds until the other device can read that many bytes."""
        return self.latency_s + size_bytes / self.bytes_per_s
