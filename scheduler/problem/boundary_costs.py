"""What a tensor that crosses a segment boundary costs beyond moving its bytes.

An engine keeps tensors in layouts of its own and fuses operators with their successors. A tensor that leaves a segment
has to be converted back, and one that enters has to be converted, also where both sides share one memory. This is work
of the device: unlike a transfer it cannot overlap other work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class BoundarySides:
    """Seconds that a tensor costs a segment that it leaves, and one that it enters, on each device of a problem."""

    leave_s: tuple[float, ...]
    enter_s: tuple[float, ...]


@dataclass(frozen=True)
class BoundaryCost(BoundarySides):
    """What a tensor costs in the model's own layout, and in NHWC where all devices that use it compute in that.

    Examples
    --------
    A tensor that devices 0 and 1 hand over in NHWC, unless device 2 reads it too:

    >>> cost = BoundaryCost((3.0, 3.0, 3.0), (4.0, 4.0, 4.0), BoundarySides((1.0,) * 3, (2.0,) * 3), frozenset({0, 1}))
    >>> cost.between({0, 1}).leave_s[0], cost.between({0, 1, 2}).leave_s[0]
    (1.0, 3.0)
    """

    in_nhwc: BoundarySides | None = None
    """In NHWC layout; None where the tensor is no image."""
    nhwc_columns: frozenset[int] = frozenset()
    """Positions of the devices that compute in NHWC."""

    def between(self, columns: Collection[int]) -> BoundarySides:
        """Return the costs where the tensor's producer and all its readers are on these devices, by position."""
        return self.in_nhwc if self.in_nhwc is not None and self.nhwc_columns.issuperset(columns) else self
