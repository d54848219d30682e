"""Devices that compute on the same processor cores: how much each slows the others down.

In a stream all devices of a plan are busy at the same time. Those that share cores slow each other down while both have
work; devices pinned to cores of their own are slower all the time, because each has fewer cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_ROUNDING = 1e-12
"""Remainder of a load, as a fraction of it, that counts as finished."""


@dataclass(frozen=True)
class CoreSharing:
    """Slowdowns of devices that share cores.

    Examples
    --------
    >>> pair = CoreSharing({("a", "b"): 2.0, ("b", "a"): 2.0})
    >>> pair.busy_s({"a": 3.0, "b": 1.0})
    {'a': 4.0, 'b': 2.0}
    >>> CoreSharing(pair.slowdowns, is_pinned=True).busy_s({"a": 3.0, "b": 1.0})
    {'a': 6.0, 'b': 2.0}
    """

    slowdowns: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(Device id, id of a device busy at the same time) -> factor on the first one's time. Missing pairs: 1."""
    is_pinned: bool = False
    """Whether each device has cores of its own (pinned processes), and is slower even while the others are idle."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Device id -> name of its cores: for a single input, devices of one group run one at a time. In a stream
    `slowdowns` apply instead."""

    def busy_s(self, loads_s: Mapping[str, float]) -> dict[str, float]:
        """Return how long each device is busy with one input of a long stream.

        Parameters
        ----------
        loads_s : mapping of str to float
            Device id -> seconds of work on one input when it runs alone.

        Returns
        -------
        dict
            Never less than the load. The largest is the time between two inputs.
        """
        if self.is_pinned:
            return {device: load_s * self._factor(device, loads_s) for device, load_s in loads_s.items()}
        left = {device: load_s for device, load_s in loads_s.items() if load_s > 0}
        busy = dict.fromkeys(loads_s, 0.0)
        now_s = 0.0
        while left:
            # Fluid model: each proceeds at the rate that the devices still busy allow, until the next one finishes.
            factors = {device: self._factor(device, left) for device in left}
            step_s = min(rest * factors[device] for device, rest in left.items())
            now_s += step_s
            left = {device: rest - step_s / factors[device] for device, rest in left.items()}
            for device in [device for device, rest in left.items() if rest <= _ROUNDING * loads_s[device]]:
                busy[device] = now_s
                del left[device]
        return busy

    def _factor(self, device: str, active: Mapping[str, float]) -> float:
        others = (self.slowdowns.get((device, other), 1.0) for other in active if other != device)
        return 1.0 + sum(slowdown - 1.0 for slowdown in others)
