"""The energy of a contender's turn, from the counters of the devices that it runs on; where there is none, no figure.

Counters know no processes: what the idle machine draws, and whatever else runs on the same package or board, is in the
figure. That is said wherever it is shown, since nothing could be subtracted that was measured at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trisect.profiles.measuring.power import energy_counter
from trisect.runtime.device import Device

LEAST_S = 0.3
"""A turn shorter than this is not measured well: a graphics card moves its counter every tenth of a second."""


@dataclass(frozen=True)
class Meter:
    """Counters of all devices that work together."""

    counters: tuple[Callable[[], float], ...]

    @classmethod
    def of(cls, devices: Iterable[Device]) -> Meter | None:
        """The counters of some devices; None where one of them has none, as the sum would then leave it out.

        Examples
        --------
        >>> Meter.of([Device("npu:x", "npu", "x", "a simulator", reality="simulated")]) is None
        True
        """
        # The processor has one counter, however many engines drive it.
        counted = {("cpu" if device.kind == "cpu" else device.id): device for device in devices}
        found = [energy_counter(device) for device in counted.values()]
        counters = tuple(counter for counter in found if counter is not None)
        return cls(counters) if counters and len(counters) == len(found) else None

    def read(self) -> tuple[float, ...] | None:
        """Joules of each counter; None where one of them cannot be read any more."""
        try:
            return tuple(counter() for counter in self.counters)
        except Exception:  # a driver that goes away is no reason to lose the turn's times
            return None


def used_j(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> float | None:
    """Joules between two readings; None where a reading is missing, a counter wrapped, or none of them moved.

    Examples
    --------
    >>> used_j((1.0, 5.0), (3.0, 5.5)), used_j((1.0, 5.0), (0.0, 5.5)), used_j((1.0,), (1.0,))
    (2.5, None, None)
    """
    if before is None or after is None or any(b > a for b, a in zip(before, after, strict=True)):
        return None
    total_j = sum(after) - sum(before)
    return total_j if total_j > 0 else None
