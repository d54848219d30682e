"""What a call of a segment costs that computes next to nothing: more, the longer its engine has slept.

An engine's threads stay awake for a while after they have worked, and its code and data stay in the caches until
others need the room. So the same call is quick in a loop and several times slower behind a second engine that computes
on the same cores for some milliseconds: that is measured as a curve over the time that others took meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..stored.segment_store import MeasuredSegment

_LEAST_AWAKE = 0.3
"""Of what a part took, at least so much is taken for its work."""


@dataclass(frozen=True)
class Wakings:
    """What a call takes in a loop, and after others have computed for shorter or longer."""

    awake_s: Mapping[str, float]
    """Device id -> seconds of a call in a loop."""
    asleep_s: Mapping[str, Sequence[tuple[float, float]]]
    """Device id -> what others took meanwhile, and what the call then took; the longer waits later."""

    def waking_s(self, device_id: str, idle_s: float) -> float:
        """What a call costs more than one in a loop, after others have computed for so long.

        Examples
        --------
        >>> wakings = Wakings({"a": 1e-4}, {"a": [(1e-3, 2e-4), (4e-3, 4e-4)]})
        >>> [round(wakings.waking_s("a", t) * 1e6) for t in (0.0, 5e-4, 1e-3, 2e-3, 1.0)]
        [0, 50, 100, 200, 300]
        """
        known = self.asleep_s.get(device_id, ())
        if not known or idle_s <= 0:
            return 0.0
        awake_s = self.awake_s[device_id]
        waits, calls = zip((0.0, awake_s), *known, strict=True)
        # Waits grow by factors: between two of them it is the logarithm that counts, below the first the time itself.
        places = [_place(wait, waits[1]) for wait in waits]
        return max(0.0, float(np.interp(_place(idle_s, waits[1]), places, calls)) - awake_s)

    def of_parts(self, parts: Sequence[tuple[str, float]]) -> list[float]:
        """What each part of a plan takes longer than in a loop of its own, because others compute before it.

        Parameters
        ----------
        parts : sequence of (str, float)
            Device id and seconds of each, one after the other, again and again.
        """
        found = []
        for index, (device_id, _) in enumerate(parts):
            idle_s = 0.0
            for back in range(1, len(parts)):
                other, time_s = parts[index - back]
                if other == device_id:
                    break
                idle_s += time_s
            found.append(self.waking_s(device_id, idle_s))
        return found

    def without(self, parts: Sequence[tuple[str, float]]) -> list[float]:
        """What each part of a plan that ran would have taken in a loop of its own; parameters as of `of_parts`."""
        wakings_s = self.of_parts(parts)
        return [max(t - waking_s, t * _LEAST_AWAKE) for (_, t), waking_s in zip(parts, wakings_s, strict=True)]


@dataclass(frozen=True)
class Calls:
    """Calls that compute next to nothing, and what a session adds to them."""

    awake: Mapping[str, MeasuredSegment]
    """Device id -> such a segment, called in a loop."""
    asleep_s: Mapping[str, Sequence[tuple[float, float]]]
    """As of `Wakings`."""
    start_s: float
    """What a call of a session takes beyond its one segment."""
    hop_s: float
    """What each segment more adds to that."""

    @property
    def wakings(self) -> Wakings:
        """What the calls cost more after others have computed."""
        return Wakings({device_id: row.time_s for device_id, row in self.awake.items()}, self.asleep_s)


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
    return sum(time_s for _, time_s in parts) + beyond_s + sum(calls.wakings.of_parts(parts))


def _place(wait_s: float, first_s: float) -> float:
    return wait_s / first_s if wait_s <= first_s else 1.0 + float(np.log(wait_s / first_s))
