"""Brings costs in line with one model: run whole on each device, it tells what its own operators take there.

Operators that an engine fuses, or lays out in its own way, cost less or more together than one by one. Where an engine
has a profiler, each node gets its share of the kernel that it runs in, and nodes of one kernel are told to stay
together; elsewhere only the whole is known, and all costs are scaled to it. What is measured is kept, so that the same
question has the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import onnx

from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.measuring.device_measurement import time_calls
from trisect.profiles.measuring.plan_trial import run_trial
from trisect.profiles.stored.profile_store import write_aside
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import StorageFailed, TrisectError
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.synthetic_feeds import generate_feeds

from ..graph.model_graph import Graph
from .kernel_breakdown import plan_kernels
from .trial_plans import TrialModel, trial_feeds

LEAST_S = 0.3
"""A model is run for so long on each device, and once more under the profiler."""
_FEWEST, _MOST = 3, 2000
_PATIENCE_S, _LARGEST_BYTES = 2.0, 1 << 30
"""Beyond these a model is only timed as a whole, as it lies on disk."""
_MOST_TOGETHER = 16
"""An engine that compiles half a model into one step says nothing of where to cut it."""
_FARTHEST = 30.0
"""A factor beyond this says that something else is wrong."""


@dataclass(frozen=True)
class Calibration:
    """What one model takes on the devices at hand."""

    scales: Mapping[str, float] = field(default_factory=dict)
    """Device id -> what its operators take here, as a share of what the profile says; where only the whole is known."""
    nodes_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Device id -> node -> seconds, as part of the whole model there."""
    together: tuple[tuple[str, ...], ...] = ()
    """Nodes that some device runs as one kernel."""


class _Looked(msgspec.Struct):
    """What is kept of a model on a device."""

    whole_s: float | None
    """None where the device fails at it."""
    kernels: list[tuple[list[int], float]] = []
    """Positions of nodes in the model's order, and seconds; none where the engine does not tell."""


def calibrate(
    graph: Graph,
    costs: ProfileCosts,
    devices: Sequence[Device],
    predicted_s: Mapping[str, float],
    store: Path,
    *,
    refused: Mapping[tuple[str, str], str] | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Run a model whole on each device that can, and see what its nodes take.

    Parameters
    ----------
    graph : Graph
    costs : ProfileCosts
        Say how a kernel's time is shared out over its nodes.
    devices : sequence of Device
    predicted_s : mapping of str to float
        Device id -> what `costs` say of the whole; infinite where the device cannot run it.
    store : Path
        JSON file of what was measured before.
    refused : mapping, optional
        Task and device id -> why it cannot run there; the devices are asked when left out.
    progress : callable, optional
    """
    known = _read(store)
    before = len(known)
    names = list(graph.nodes)
    scales: dict[str, float] = {}
    nodes_s: dict[str, Mapping[str, float]] = {}
    together: list[tuple[str, ...]] = []
    for done, device in enumerate(devices):
        if not device.is_real or device.node or not 0 < predicted_s[device.id] < inf:
            continue  # another machine's device cannot be run from here
        key = _key(graph, device)
        if key not in known:
            progress(done, len(devices), f"running the whole model on {device.id}")
            if predicted_s[device.id] > _PATIENCE_S or _weights_bytes(graph) > _LARGEST_BYTES:
                known[key] = _Looked(_whole_s(graph, device))
            else:
                known[key] = _look(graph, device, costs.call_overhead_s(device.id), devices, refused)
        looked = known[key]
        if looked.kernels:
            kernels = [(tuple(names[i] for i in inside), time_s) for inside, time_s in looked.kernels]
            nodes_s[device.id] = _shared_out(graph, costs, device, kernels)
            together += [nodes for nodes, _ in kernels if 1 < len(nodes) <= _MOST_TOGETHER]
        elif looked.whole_s:
            scale = looked.whole_s / predicted_s[device.id]
            scales[device.id] = min(max(scale, 1 / _FARTHEST), _FARTHEST)
    if len(known) > before:
        with contextlib.suppress(StorageFailed):  # it is then measured again next time
            write_aside(store, msgspec.json.format(msgspec.json.encode(known), indent=1))
    return Calibration(scales, nodes_s, tuple(together))


def _look(
    graph: Graph,
    device: Device,
    call_s: float,
    devices: Sequence[Device],
    refused: Mapping[tuple[str, str], str] | None,
) -> _Looked:
    """Median seconds of one run, and of its kernels."""
    try:
        with TemporaryDirectory(prefix="trisect-whole-") as folder:
            trial_plan = TrialModel(graph, devices, refused).whole(device, Path(folder) / "plan")
            if any(segment.device != device.id for segment in trial_plan.plan.segments):
                return _Looked(None)
            feeds = trial_feeds(trial_plan.plan)
            trial = run_trial(trial_plan.plan, feeds, lasting_s=LEAST_S, fewest=_FEWEST, most=_MOST)
            kernels = plan_kernels(trial_plan.plan, trial, {device.id: call_s})
    except (TrisectError, MemoryError):
        return _Looked(None)
    position = {name: i for i, name in enumerate(graph.nodes)}
    return _Looked(sum(trial.segments_s), [([position[n] for n in k.nodes], k.total_s) for k in kernels])


def _whole_s(graph: Graph, device: Device) -> float | None:
    """Median seconds of one run of the file as it is, for models too large or too slow to be looked at closely."""
    try:
        feeds = generate_feeds(onnx.load(graph.path, load_external_data=False), graph)
        with closing(load(graph.path, device, LoadOptions(shapes=dict(graph.shapes)))) as module:
            begun_s = time.perf_counter()
            module.run(feeds)
            once_s = time.perf_counter() - begun_s
            if once_s > _PATIENCE_S:
                return once_s
            return time_calls(lambda: module.run(feeds), lasting_s=LEAST_S, fewest=_FEWEST, most=_MOST).median_s
    except (TrisectError, MemoryError):
        return None


def _weights_bytes(graph: Graph) -> int:
    return sum(tensor.nbytes for tensor in graph.constants.values())


def _shared_out(
    graph: Graph, costs: ProfileCosts, device: Device, kernels: Sequence[tuple[tuple[str, ...], float]]
) -> dict[str, float]:
    """A kernel's time over its nodes, as the profile would have it."""
    found = {}
    for nodes, time_s in kernels:
        alone = [costs.node_time_s(graph.digraph.nodes[node]["features"], device.id) for node in nodes]
        total = sum(alone)
        for node, part in zip(nodes, alone, strict=True):
            found[node] = time_s * part / total if 0 < total < inf else time_s / len(nodes)
    return found


def _key(graph: Graph, device: Device) -> str:
    told = [graph.sha256, device.id, device.name, device.engine_version, *map(str, sorted(graph.shapes.items()))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _read(store: Path) -> dict[str, _Looked]:
    """What was measured before; a file that cannot be read is worth no more than none."""
    try:
        return msgspec.json.decode(store.read_bytes(), type=dict[str, _Looked])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
