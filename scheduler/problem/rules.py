"""What a problem demands beyond costs: how a placement becomes a value, and which placements are allowed at all.

Costs alone do not say whether a device pays for its transfers itself, whether its work must be one piece, or what fits
its memory. A problem made from a model goes by the runtime's own rules; one read from a benchmark by its authors'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Convention = Literal["segments", "offload", "tasks"]


@dataclass(frozen=True)
class Rules:
    """How placements are judged.

    Examples
    --------
    >>> Rules().convention, Rules(contiguous=True).contiguous
    ('segments', True)
    """

    convention: Convention = "segments"
    """``segments``: cut and run as the runtime does (`simulate`). ``offload``: accelerators serve a host and pay for
    their own transfers (`trisect.scheduler.offload`). ``tasks``: each task runs by itself, as soon as it can."""
    contiguous: bool = False
    """Each device gets one convex piece, and the pieces form a pipeline: none waits for itself."""
    sizes_bytes: Mapping[str, float] = field(default_factory=dict)
    """What a task keeps in its device's memory as long as it is loaded: its weights."""
    colocated: tuple[tuple[str, ...], ...] = ()
    """Tasks that must be on one device together."""
    most_segments: int | None = None
    """How many segments there may be at most."""
    backward: frozenset[str] = frozenset()
    """Tasks of a training graph's backward pass: they follow their forward tasks and need not be contiguous."""
