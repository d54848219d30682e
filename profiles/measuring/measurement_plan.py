"""Plans of a few segments, to measure what a session adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline


def measurement_plan(name: str, devices: Sequence[Device], segments: Sequence[Segment], folder: Path) -> Plan:
    """Return a plan that runs segments one after the other.

    Parameters
    ----------
    name : str
        Of the measurement.
    devices : sequence of Device
    segments : sequence of Segment
    folder : Path
        Where the segments' models are.
    """
    return Plan(
        model=name,
        model_sha256="",
        devices=tuple(devices),
        placement={},
        segments=tuple(segments),
        transfers=(),
        inputs=segments[0].inputs,
        outputs=segments[-1].outputs,
        strategy=name,
        objective="latency",
        seed=0,
        shapes={},
        predicted=Timeline.of([], source="predicted"),
        value=0.0,
        bound=0.0,
        folder=str(folder),
    )
