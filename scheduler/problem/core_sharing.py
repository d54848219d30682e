"""Devices that compute on the same cores at once: how much longer each takes, and what that makes of a pipeline.

In a stream all devices of a plan are at work at the same time. Those that share cores slow each other, for as long as
both have something to do; on cores of their own they are slower all the time, because each has fewer of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_DONE = 1e-12
"""Shares of a load that rounding leaves over."""


@dataclass(frozen=True)
class Sharing:
    """What is known of devices that share cores.

    Examples
    --------
    >>> pair = Sharing({("a", "b"): 2.0, ("b", "a"): 2.0})
    >>> pair.busy_s({"a": 3.0, "b": 1.0})
    {'a': 4.0, 'b': 2.0}
    >>> Sharing(pair.slowdowns, apart=True).busy_s({"a": 3.0, "b": 1.0})
    {'a': 6.0, 'b': 2.0}
    """

    slowdowns: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Device and one that is at work beside it -> how many times as long it takes. Pairs left out do not meet."""
    apart: bool = False
    """Whether each has cores of its own (pinned processes), and is that slow even while the others rest."""

    def busy_s(self, loads_s: Mapping[str, float]) -> dict[str, float]:
        """How long each device is at work on one input of a long stream.

        Parameters
        ----------
        loads_s : mapping of str to float
            Device id -> seconds of work on one input, when it runs alone.

        Returns
        -------
        dict
            Never less than the load. The largest is the time between two inputs.
        """
        if self.apart:
            return {device: load_s * self._factor(device, loads_s) for device, load_s in loads_s.items()}
        left = {device: load_s for device, load_s in loads_s.items() if load_s > 0}
        busy = dict.fromkeys(loads_s, 0.0)
        now_s = 0.0
        while left:
            # A fluid: each goes on at the speed that those still at work leave it, until the next of them is done.
            factors = {device: self._factor(device, left) for device in left}
            step_s = min(rest * factors[device] for device, rest in left.items())
            now_s += step_s
            left = {device: rest - step_s / factors[device] for device, rest in left.items()}
            for device in [device for device, rest in left.items() if rest <= _DONE * loads_s[device]]:
                busy[device] = now_s
                del left[device]
        return busy

    def _factor(self, device: str, at_work: Mapping[str, float]) -> float:
        others = (self.slowdowns.get((device, other), 1.0) for other in at_work if other != device)
        return 1.0 + sum(slowdown - 1.0 for slowdown in others)
