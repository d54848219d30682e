"""Energy of a contender's turn, from the hardware counters of the devices that it runs on, where they have any.

Counters do not distinguish processes: the idle power, and whatever else runs on the same package or board, is included.
That is stated wherever the figure is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trisect.profiles.measuring.power import energy_counter
from trisect.runtime.device import Device

log = logging.getLogger(__name__)

TURN_MIN_S = 0.3
"""Shorter turns are not measured well: a GPU updates its counter every tenth of a second."""


@dataclass(frozen=True)
class EnergyMeter:
    """Energy counters of all devices that work together."""

    counters: tuple[Callable[[], float], ...]

    @classmethod
    def of(cls, devices: Iterable[Device]) -> EnergyMeter | None:
        """Return the counters of some devices; None where one of them has none, since the sum would be incomplete.

        Examples
        --------
        >>> EnergyMeter.of([Device("npu:x", "npu", "x", "a simulator", reality="simulated")]) is None
        True
        """
        # The processor has one counter, however many engines drive it.
        metered = {("cpu" if device.kind == "cpu" else device.id): device for device in devices}
        optional = [energy_counter(device) for device in metered.values()]
        counters = tuple(counter for counter in optional if counter is not None)
        return cls(counters) if counters and len(counters) == len(optional) else None

    def read(self) -> tuple[float, ...] | None:
        """Return the joules of each counter; None where one of them cannot be read."""
        try:
            return tuple(counter() for counter in self.counters)
        except Exception:  # a driver that fails must not cost the turn's times
            log.warning("an energy counter cannot be read", exc_info=True)
            return None


def used_j(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> float | None:
    """Return the joules between two readings; None if one is missing, a counter wrapped, or none of them moved.

    Examples
    --------
    >>> used_j((1.0, 5.0), (3.0, 5.5)), used_j((1.0, 5.0), (0.0, 5.5)), used_j((1.0,), (1.0,))
    (2.5, None, None)
    """
    if before is None or after is None or any(b > a for b, a in zip(before, after, strict=True)):
        return None
    total_j = sum(after) - sum(before)
    return total_j if total_j > 0 else None
