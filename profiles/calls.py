"""What a call of a segment costs that computes next to nothing: more, the longer its engine has slept.

An engine's threads stay awake for a while after they have worked, and its code and data stay in the caches until
others need the room. So the same call is quick in a loop and several times slower behind a second engine that computes
on the same cores for some milliseconds: that is measured as a curve over the time that others took meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .segments import MeasuredSegment


@dataclass(frozen=True)
class Calls:
    """Calls that compute next to nothing, after others have computed for shorter or longer."""

    awake: Mapping[str, MeasuredSegment]
    """Device id -> such a segment, called in a loop."""
    asleep_s: Mapping[str, Sequence[tuple[float, float]]]
    """Device id -> what others took meanwhile, and what the call then took; the longer waits later."""
    start_s: float
    """What a call of a session takes beyond its one segment."""
    hop_s: float
    """What each segment more adds to that."""

    @property
    def awake_s(self) -> dict[str, float]:
        """Device id -> seconds of a call in a loop."""
        return {device_id: row.time_s for device_id, row in self.awake.items()}

    def waking_s(self, device_id: str, idle_s: float) -> float:
        """What a call costs more than one in a loop, after others have computed for so long.

        Examples
        --------
        >>> row = MeasuredSegment((), 1e-4, 0.0)
        >>> calls = Calls({"a": row}, {"a": [(1e-3, 2e-4), (4e-3, 4e-4)]}, 0.0, 0.0)
        >>> [round(calls.waking_s("a", t) * 1e6) for t in (0.0, 5e-4, 1e-3, 2e-3, 1.0)]
        [0, 50, 100, 200, 300]
        """
        awake_s = self.awake[device_id].time_s
        waits, calls = zip((0.0, awake_s), *self.asleep_s.get(device_id, ()), strict=True)
        # Waits grow by factors: between two of them it is the logarithm that counts, below the first the time itself.
        first = waits[1] if len(waits) > 1 else 1.0
        places = [_place(wait, first) for wait in waits]
        return max(0.0, float(np.interp(_place(idle_s, first), places, calls)) - awake_s)


def plan_time_s(parts: Sequence[tuple[str, float]], calls: Calls, start_s: float | None = None) -> float:
    """Seconds of a call of a session whose segments run one after the other, again and again.

    Parameters
    ----------
    parts : sequence of (str, float)
        Device id and seconds of each segment, as it runs in a loop.
    calls : Calls
    start_s : float, optional
        Beyond the segments, where that is known of the model at hand.

    Examples
    --------
    >>> row = MeasuredSegment((), 1e-4, 0.0)
    >>> calls = Calls({"a": row, "b": row}, {"a": [(1e-3, 2e-4)], "b": []}, 1e-5, 2e-5)
    >>> round(plan_time_s([("a", 1e-3), ("b", 1e-3)], calls) * 1e6)
    2130
    """
    beyond_s = (calls.start_s if start_s is None else start_s) + calls.hop_s * (len(parts) - 1)
    return sum(time_s for _, time_s in parts) + beyond_s + sum(wakings_s(parts, calls))


def wakings_s(parts: Sequence[tuple[str, float]], calls: Calls) -> list[float]:
    """What each segment of a plan takes longer than in a loop of its own, because others compute before it.

    Parameters
    ----------
    parts : sequence of (str, float)
        Device id and seconds of each segment.
    calls : Calls
    """
    found = []
    for index, (device_id, _) in enumerate(parts):
        idle_s = 0.0
        for back in range(1, len(parts)):
            other, time_s = parts[index - back]
            if other == device_id:
                break
            idle_s += time_s
        found.append(calls.waking_s(device_id, idle_s))
    return found


def _place(wait_s: float, first_s: float) -> float:
    return wait_s / first_s if wait_s <= first_s else 1.0 + float(np.log(wait_s / first_s))
