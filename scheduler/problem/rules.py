"""What a problem demands beyond costs: the objective, how a placement becomes a value, and which placements are valid.

Costs alone do not say whether a device pays for its own transfers, whether its work must be one contiguous piece, or
what fits its memory. A problem made from a model follows the runtime's rules; one read from a benchmark its authors'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["latency", "throughput", "energy", "memory"]
"""Objective to minimise: seconds of one input, seconds between two inputs of a stream, joules of one input, peak bytes
of the fullest device."""
Convention = Literal["segments", "offload", "tasks"]


@dataclass(frozen=True)
class Rules:
    """How placements are evaluated.

    Examples
    --------
    >>> Rules().convention, Rules(contiguous=True).contiguous
    ('segments', True)
    """

    convention: Convention = "segments"
    """``segments``: cut and run as the runtime does (`simulate`). ``offload``: accelerators serve a host and pay for
    their own transfers (`trisect.scheduler.offload`). ``tasks``: each task runs by itself, as soon as it can."""
    contiguous: bool = False
    """Each device gets one convex piece, and the pieces form a pipeline without cycles."""
    sizes_bytes: Mapping[str, float] = field(default_factory=dict)
    """Memory that a task occupies on its device as long as it is loaded: its weights."""
    colocated: tuple[tuple[str, ...], ...] = ()
    """Groups of tasks that must share a device."""
    max_segments: int | None = None
    backward: frozenset[str] = frozenset()
    """Tasks of a training graph's backward pass: they follow their forward tasks and need not be contiguous."""
