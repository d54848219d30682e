"""The overhead of calling a segment: warm, in a loop, and cold, after another engine has computed on the same cores.

For a while after a call, an engine's threads keep spinning and its code and data stay in the caches. The same call is
therefore several times slower after a second engine has computed on the same cores for some milliseconds. That wake-up
cost is measured as a curve over the time that the other engine took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..stored.segment_store import MeasuredSegment

_MIN_WARM_SHARE = 0.3
"""Lower limit of a segment's warm time, as a share of its measured time."""


@dataclass(frozen=True)
class WakeupCosts:
    """Time of a minimal call, warm and cold, per device."""

    warm_s: Mapping[str, float]
    """Device id -> seconds of a call in a loop."""
    cold_s: Mapping[str, Sequence[tuple[float, float]]]
    """Device id -> pairs of seconds: how long others computed, and the call after that; in ascending order."""

    def wakeup_s(self, device_id: str, idle_s: float) -> float:
        """Return by how much a call is slower than a warm one, after others have computed for ``idle_s`` seconds.

        Examples
        --------
        >>> costs = WakeupCosts({"a": 1e-4}, {"a": [(1e-3, 2e-4), (4e-3, 4e-4)]})
        >>> [round(costs.wakeup_s("a", t) * 1e6) for t in (0.0, 5e-4, 1e-3, 2e-3, 1.0)]
        [0, 50, 100, 200, 300]
        """
        curve = self.cold_s.get(device_id, ())
        if not curve or idle_s <= 0:
            return 0.0
        warm_s = self.warm_s[device_id]
        idle_times, calls = zip((0.0, warm_s), *curve, strict=True)
        # Idle times were measured in a geometric series: linear up to the first one, logarithmic beyond.
        positions = [_position(time_s, idle_times[1]) for time_s in idle_times]
        return max(0.0, float(np.interp(_position(idle_s, idle_times[1]), positions, calls)) - warm_s)

    def extra_s(self, parts: Sequence[tuple[str, float]]) -> list[float]:
        """Return the wake-up cost of each segment of a plan that runs in a loop, one segment after the other.

        Parameters
        ----------
        parts : sequence of (str, float)
            Device id and seconds of each segment.
        """
        extra_s = []
        for index, (device_id, _) in enumerate(parts):
            idle_s = 0.0
            for back in range(1, len(parts)):
                other, time_s = parts[index - back]
                if other == device_id:
                    break
                idle_s += time_s
            extra_s.append(self.wakeup_s(device_id, idle_s))
        return extra_s

    def warm_times_s(self, parts: Sequence[tuple[str, float]]) -> list[float]:
        """Return the measured segment times of a plan without their wake-up costs; parameters as of `extra_s`."""
        return [
            max(time_s - extra_s, time_s * _MIN_WARM_SHARE)
            for (_, time_s), extra_s in zip(parts, self.extra_s(parts), strict=True)
        ]


@dataclass(frozen=True)
class CallCosts:
    """Time of minimal calls, and the overhead that a session adds to its segments."""

    warm: Mapping[str, MeasuredSegment]
    """Device id -> a minimal segment, called in a loop."""
    cold_s: Mapping[str, Sequence[tuple[float, float]]]
    """As in `WakeupCosts`."""
    session_s: float
    """Overhead of a session's call with one segment."""
    handover_s: float
    """Additional overhead for each further segment."""

    @property
    def wakeup_costs(self) -> WakeupCosts:
        """Wake-up costs of the devices."""
        return WakeupCosts({device_id: row.time_s for device_id, row in self.warm.items()}, self.cold_s)


def plan_latency_s(parts: Sequence[tuple[str, float]], calls: CallCosts, session_s: float | None = None) -> float:
    """Return the seconds of a session's call whose segments run one after the other, in a loop.

    Parameters
    ----------
    parts : sequence of (str, float)
        Device id and seconds of each segment, warm.
    calls : CallCosts
    session_s : float, optional
        Overhead of the session, where it was measured for this model.

    Examples
    --------
    >>> row = MeasuredSegment((), 1e-4, 0.0)
    >>> calls = CallCosts({"a": row, "b": row}, {"a": [(1e-3, 2e-4)], "b": []}, 1e-5, 2e-5)
    >>> round(plan_latency_s([("a", 1e-3), ("b", 1e-3)], calls) * 1e6)
    2130
    """
    overhead_s = (calls.session_s if session_s is None else session_s) + calls.handover_s * (len(parts) - 1)
    return sum(time_s for _, time_s in parts) + overhead_s + sum(calls.wakeup_costs.extra_s(parts))


def _position(idle_s: float, first_s: float) -> float:
    return idle_s / first_s if idle_s <= first_s else 1.0 + float(np.log(idle_s / first_s))
