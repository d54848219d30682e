"""What a tensor that crosses a segment boundary costs beyond moving its bytes.

An engine keeps tensors in layouts of its own and fuses operators with their successors. A tensor that leaves a segment
has to be converted back, and one that enters has to be converted, also where both sides share one memory. This is work
of the device: unlike a transfer it cannot overlap other work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BoundaryCost:
    """Seconds that one tensor costs a segment that it leaves, and one that it enters, on each device of a problem."""

    leave_s: tuple[float, ...]
    enter_s: tuple[float, ...]
