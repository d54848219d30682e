"""Adds the copies to and from device memory to a predicted schedule.

A link's transfer time is measured from the end of one segment to the start of the next, which for a device with memory
of its own is the copy. A trace shows it as a conversion beside the transfer, and so does the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Event, Schedule


def with_copies(schedule: Schedule, segments: Iterable[Segment], devices: Sequence[Device]) -> Schedule:
    """Return the schedule with the copies that its transfers consist of.

    Parameters
    ----------
    segments : iterable of Segment
        Segments of the schedule.
    """
    with_memory = {device.id for device in devices if capabilities(device).own_memory}
    if not with_memory:
        return schedule
    makers = {spec.name: segment.device for segment in segments for spec in segment.outputs}
    events: list[Event] = []
    copied_to_host: set[tuple[str, int]] = set()
    for event in schedule.events:
        events.append(event)
        if event.kind != "transfer":
            continue
        for copy in _copies(event, makers.get(event.name, ""), with_memory):
            # A tensor is copied to the host once, however many segments read it.
            if copy.device != event.device and (event.name, event.item) in copied_to_host:
                continue
            if copy.device != event.device:
                copied_to_host.add((event.name, event.item))
            events.append(copy)
    return replace(schedule, events=tuple(events))


def _copies(moved: Event, source: str, with_memory: set[str]) -> Iterator[Event]:
    """Yield the copies of one transfer, one after the other: half of its time each where there are two."""
    devices = [device for device in (source, moved.device) if device in with_memory]
    each_s = moved.duration_s / max(1, len(devices))
    for number, device in enumerate(devices):
        start_s = moved.start_s + number * each_s
        yield replace(moved, kind="convert", device=device, start_s=start_s, end_s=start_s + each_s)
