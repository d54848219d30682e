"""Brings a profile's costs in line with one model: run whole on each device, it tells how far they are off.

Operators that an engine fuses, or lays out in its own way, cost less or more together than one by one. How a model's
time is spread over its operators stays a guess; how much it takes on one device alone does not, and a split is only
worth making against that. What is measured is kept, so that the same question has the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path

import msgspec
import onnx

from trisect.profiles.costs import ProfileCosts
from trisect.profiles.measure import time_calls
from trisect.profiles.store import write_aside
from trisect.runtime.devices import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import StorageFailed, TrisectError
from trisect.runtime.feeds import generate_feeds

from .graph import Graph

LEAST_S = 0.3
"""A model is run for so long on each device, but at least `_FEWEST` times."""
_FEWEST, _MOST = 5, 100_000
_PATIENCE_S = 3.0
"""One run that takes longer is measured once."""
_FARTHEST = 30.0
"""A factor beyond this says that something else is wrong."""


def calibrated(
    graph: Graph,
    costs: ProfileCosts,
    devices: Sequence[Device],
    predicted_s: Mapping[str, float],
    store: Path,
    progress: Callable[[int, int, str], None] | None = None,
) -> ProfileCosts:
    """Costs scaled so that the whole model takes on each device what it was measured to take.

    Parameters
    ----------
    graph : Graph
    costs : ProfileCosts
    devices : sequence of Device
    predicted_s : mapping of str to float
        Device id -> what `costs` say of the whole; infinite where the device cannot run it.
    store : Path
        JSON file of what was measured before.
    progress : callable, optional

    Returns
    -------
    ProfileCosts
        The same where nothing could be measured.
    """
    known = _read(store)
    before = len(known)
    scales: dict[str, float] = {}
    for done, device in enumerate(devices):
        if not device.is_real or device.node or not 0 < predicted_s[device.id] < inf:
            continue  # another machine's device cannot be run from here
        key = _key(graph, device)
        if key not in known:
            if progress is not None:
                progress(done, len(devices), f"running the whole model on {device.id}")
            known[key] = _measure(graph, device)
        if 0 < known[key] < inf:
            scale = known[key] / predicted_s[device.id]
            scales[device.id] = min(max(scale, 1 / _FARTHEST), _FARTHEST)
    if len(known) > before:
        with contextlib.suppress(StorageFailed):  # it is then measured again next time
            write_aside(store, msgspec.json.format(msgspec.json.encode(known), indent=1))
    return costs.scaled(scales)


def _measure(graph: Graph, device: Device) -> float:
    """Median seconds of one run; infinite where the device fails at it."""
    try:
        feeds = generate_feeds(onnx.load(graph.path, load_external_data=False), graph)
        module = load(graph.path, device, LoadOptions(shapes=dict(graph.shapes)))
    except (TrisectError, MemoryError):
        return inf
    try:
        begun_s = time.perf_counter()
        module.run(feeds)
        once_s = time.perf_counter() - begun_s
        if once_s >= _PATIENCE_S:
            return once_s
        return time_calls(lambda: module.run(feeds), lasting_s=LEAST_S, fewest=_FEWEST, most=_MOST).median_s
    except (TrisectError, MemoryError):
        return inf
    finally:
        module.close()


def _key(graph: Graph, device: Device) -> str:
    told = [graph.sha256, device.id, device.name, device.engine_version, *map(str, sorted(graph.shapes.items()))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _read(store: Path) -> dict[str, float]:
    """What was measured before; a file that cannot be read is worth no more than none."""
    try:
        return msgspec.json.decode(store.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
