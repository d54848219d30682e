"""What of a predicted hand-over is copying: up to a device with memory of its own, or down from it.

A link's time is measured from the end of one segment to the start of the next, which for such a device is the copy. A
trace shows it as a conversion beside the hand-over, and so does the prediction, to be laid beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.plans.plan import Segment
from trisect.runtime.plans.timeline import Event, Schedule


def with_copies(schedule: Schedule, segments: Iterable[Segment], devices: Sequence[Device]) -> Schedule:
    """The schedule with the copies that its transfers are made of; nothing else in it changes.

    Parameters
    ----------
    schedule : Schedule
    segments : iterable of Segment
        Those that it is about.
    devices : sequence of Device
    """
    own = {device.id for device in devices if capabilities(device).own_memory}
    if not own:
        return schedule
    makers = {spec.name: segment.device for segment in segments for spec in segment.outputs}
    events: list[Event] = []
    down: set[tuple[str, int]] = set()
    for event in schedule.events:
        events.append(event)
        if event.kind != "transfer":
            continue
        for copy in _copies(event, makers.get(event.name, ""), own):
            # It comes down once, whoever reads it then.
            if copy.device != event.device and (event.name, event.item) in down:
                continue
            if copy.device != event.device:
                down.add((event.name, event.item))
            events.append(copy)
    return replace(schedule, events=tuple(events))


def _copies(moved: Event, source: str, own: set[str]) -> Iterator[Event]:
    """The copies of one transfer, one after the other: half its time each where there are two."""
    found = [device for device in (source, moved.device) if device in own]
    each_s = moved.duration_s / max(1, len(found))
    for number, device in enumerate(found):
        start_s = moved.start_s + number * each_s
        yield replace(moved, kind="convert", device=device, start_s=start_s, end_s=start_s + each_s)
