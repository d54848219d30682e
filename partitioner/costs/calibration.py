"""Calibrates costs on one model: runs it whole on each device, and measures what its own operators take there.

Operators that an engine fuses, or computes in its own layout, take less or more time together than one by one. Where an
engine has a profiler, each node gets its share of the time of its kernel, and the nodes of one kernel stay together;
elsewhere only the whole run is timed. Cost models are corrected by these times and by some cuts (`cut_measurement`);
the costs of a device without one are scaled to its whole run. Measurements are cached, so that the same request gives
the same plan. The model runs in a child process with limits.

Where a device has become faster or slower since, as its probe tells, its times are scaled, or measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from statistics import median

import msgspec

from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.drift.drift_factor import drift, drift_text, is_outdated
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.device import Device
from trisect.runtime.engines.common.kernels import Kernel
from trisect.runtime.errors import TrisectError
from trisect.runtime.files.cache_files import read_cache, update_cache
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder

from ..graph.model_graph import Graph
from ..problem.problem_builder import ProblemInputs
from ..problem.selectors import named_node_devices
from ..problem.task_grouping import merged_tasks
from .isolated_measurement import (
    PREDICTED_MAX_S,
    PROFILED_TIME_MAX_S,
    BoundModel,
    measure_whole_file,
    measure_whole_plan,
)
from .kernel_breakdown import kernel_rows
from .model_costs import measurement_key, node_terms_of, segment_terms_of
from .trial_plans import TrialModel

log = logging.getLogger(__name__)

_PROFILED_BYTES_MAX = 1 << 30
"""A model that is larger, or slower than `PROFILED_TIME_MAX_S`, is only timed as a whole, as it is on disk."""
_KERNEL_NODES_MAX = 16
"""Larger kernels are ignored: an engine that compiles half a model into one step does not show where to cut it."""
_SCALE_MAX = 30.0
"""A larger factor indicates another problem, and is clamped."""


@dataclass(frozen=True)
class Calibration:
    """Measured times of one model on the devices of this machine."""

    scales: Mapping[str, float] = field(default_factory=dict)
    """Device id -> measured time of the whole model relative to the one predicted; without a kernel profiler."""
    nodes_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Device id -> node -> seconds, as part of the whole model."""
    together: tuple[tuple[str, ...], ...] = ()
    """Groups of nodes that some device runs as one kernel."""
    rows: Mapping[str, Sequence[MeasuredSegment]] = field(default_factory=dict)
    """Device id -> the whole model and its kernels, to correct the device's cost model."""
    session_overhead_s: float = 0.0
    """What a run in a session takes beyond its segments: the median of the devices."""
    notes: tuple[str, ...] = ()
    """Why a device could not run the model, and whose times are scaled."""


class _ModelTimes(msgspec.Struct):
    """Cached measurements of a model on a device."""

    whole_s: float | None
    """None where the device cannot run the model."""
    kernels: list[tuple[list[int], float, float]] = []
    """Positions of the nodes in the model's order, seconds without and of layout changes; empty without a kernel
    profiler."""
    session_overhead_s: float | None = None
    """What a run in a session takes beyond `whole_s`; None = not measured."""
    not_run: str = ""
    """Why the device cannot run the model, where that is not known otherwise."""
    probe_s: float | None = None
    """Seconds of the device's probe at that time; None = unknown."""
    date: str = ""
    """ISO 8601, UTC."""


def calibrated(
    inputs: ProblemInputs,
    cache: Path,
    progress: Progress = no_progress,
    probes_s: Mapping[str, float] | None = None,
    now: datetime | None = None,
) -> ProblemInputs:
    """Return the inputs with costs calibrated on the model; unchanged where costs are not measured on this machine.

    Parameters
    ----------
    cache : Path
        JSON file of earlier measurements.
    probes_s : mapping of str to float, optional
        Device id -> seconds of its probe at present; see `trisect.profiles.drift.drift_factor`.
    now : datetime, optional
    """
    costs = inputs.costs
    if not costs.is_measured:
        return inputs
    measured = calibrate(inputs, cache, progress, probes_s, now)
    named = named_node_devices(inputs.graph, inputs.constraints, inputs.devices, inputs.absent)
    tasks, refused = merged_tasks(inputs.graph, inputs.tasks, inputs.refused, measured.together, named)
    models = {key: model.refined(measured.rows.get(key, ())) for key, model in costs.models.items()}
    # What was measured of this model needs no scale; `rows` hold the times of today.
    scales = {**costs.scales, **{d: costs.scales.get(d, 1.0) * s for d, s in measured.scales.items()}}
    costs = costs.scaled({d: s for d, s in scales.items() if d not in measured.rows}).with_models(models)
    notes = (*inputs.notes, *measured.notes)
    return replace(
        inputs, costs=costs, tasks=tasks, refused=refused, nodes_s=measured.nodes_s, notes=notes,
        session_overhead_s=measured.session_overhead_s,
    )  # fmt: skip


def calibrate(
    inputs: ProblemInputs,
    cache: Path,
    progress: Progress = no_progress,
    probes_s: Mapping[str, float] | None = None,
    now: datetime | None = None,
) -> Calibration:
    """Run a model whole on each device that can run it, and measure what its nodes take; parameters of `calibrated`."""
    graph, devices = inputs.graph, inputs.devices
    now = now or datetime.now(UTC)
    known = _read(cache)
    measured: dict[str, _ModelTimes] = {}
    named = named_node_devices(graph, inputs.constraints, devices, inputs.absent)
    names = list(graph.nodes)
    scales: dict[str, float] = {}
    nodes_s: dict[str, Mapping[str, float]] = {}
    together: list[tuple[str, ...]] = []
    rows: dict[str, list[MeasuredSegment]] = {}
    notes: list[str] = []
    overheads_s: list[float] = []
    for done, device in enumerate(devices):
        predicted_s = sum(row[device.id] for row in inputs.times_s.values())
        if not device.is_real or device.node or not 0 < predicted_s < inf:
            continue  # a device of another machine cannot be run from here
        key, probe_s = measurement_key(graph, [device]), (probes_s or {}).get(device.id)
        factor = drift(known[key].probe_s, probe_s) if key in known else 1.0
        if key not in known or is_outdated(known[key].date, now, factor):
            progress(done, len(devices), f"running the whole model on {device.id}")
            known[key] = measured[key] = _measured(inputs, device, predicted_s)
            known[key].probe_s, known[key].date = probe_s, now.isoformat(timespec="seconds")
            factor = 1.0
        times = known[key]
        if factor != 1.0 and times.whole_s:
            notes.append(
                f"{device.id} runs {drift_text(factor)} than when this model was measured on it ({times.date[:10]}): "
                "its costs are scaled by that"
            )
        if times.session_overhead_s is not None:
            overheads_s.append(times.session_overhead_s * factor)
        if times.kernels:
            kernels = [
                Kernel(tuple(names[i] for i in inside), time_s * factor, layout_s * factor)
                for inside, time_s, layout_s in times.kernels
            ]
            # The share of a node in its kernel's time says nothing of nodes that the user forces apart.
            whole = [(k.nodes, k.total_s) for k in kernels if not _is_forced_apart(k.nodes, named)]
            nodes_s[device.id] = _node_shares_s(graph, inputs.costs, device, whole)
            together += [k.nodes for k in kernels if 1 < len(k.nodes) <= _KERNEL_NODES_MAX]
            if device.id in inputs.costs.models:
                rows[device.id] = kernel_rows(kernels, node_terms_of(graph, names), "plan")
        if times.whole_s and device.id in inputs.costs.models:
            row = MeasuredSegment(segment_terms_of(graph, names), times.whole_s * factor, 0.0, "plan")
            rows.setdefault(device.id, []).append(row)
        elif times.whole_s and not times.kernels:
            scales[device.id] = min(max(times.whole_s * factor / predicted_s, 1 / _SCALE_MAX), _SCALE_MAX)
        if times.not_run:
            notes.append(f"costs of {device.id} are not calibrated on this model: {times.not_run}")
    if measured:

        def merged() -> bytes:
            return msgspec.json.format(msgspec.json.encode({**_read(cache), **measured}), indent=1)

        update_cache(cache, merged, "the calibration")
    overhead_s = median(overheads_s) if overheads_s else 0.0
    return Calibration(scales, nodes_s, tuple(together), rows, overhead_s, tuple(notes))


def _measured(inputs: ProblemInputs, device: Device, predicted_s: float) -> _ModelTimes:
    """Run a model whole on a device; where that fails, return why."""
    if predicted_s > PREDICTED_MAX_S:
        reason = f"one run is predicted to take {predicted_s:.3g} s"
    else:
        try:
            weight_bytes = _weights_bytes(inputs.graph)
            if predicted_s > PROFILED_TIME_MAX_S or weight_bytes > _PROFILED_BYTES_MAX:
                return _ModelTimes(_measure_whole_s(inputs.graph, device, predicted_s, weight_bytes))
            return _measure_kernels(inputs, device, predicted_s, weight_bytes)
        except (TrisectError, MemoryError) as error:
            reason = f"it cannot run the whole model: {error.reason if isinstance(error, TrisectError) else error}"
    log.warning("costs of %s are not calibrated: %s", device.id, reason)
    return _ModelTimes(None, not_run=reason)


def _measure_kernels(inputs: ProblemInputs, device: Device, predicted_s: float, weight_bytes: float) -> _ModelTimes:
    """Measure the median seconds of one run, and of its kernels."""
    graph = inputs.graph
    with ScratchFolder("whole") as folder:
        plan = TrialModel(graph, inputs.devices, inputs.refused).whole(device, Path(folder) / "plan").plan
        if any(segment.device != device.id for segment in plan.segments):
            return _ModelTimes(None)
        overheads_s = {device.id: inputs.costs.call_overhead_s(device.id)}
        times = measure_whole_plan(Path(plan.folder), overheads_s, predicted_s, weight_bytes)
    position = {name: i for i, name in enumerate(graph.nodes)}
    kernels = [([position[node] for node in k.nodes], k.time_s, k.layout_s) for k in times.kernels]
    return _ModelTimes(times.total_s, kernels, times.session_overhead_s)


def _measure_whole_s(graph: Graph, device: Device, predicted_s: float, weight_bytes: float) -> float:
    """Measure the median seconds of one run of the unmodified file, for models too large or too slow to be profiled."""
    model = BoundModel(graph.path.absolute(), graph.inputs, dict(graph.shapes))
    return measure_whole_file(model, device, predicted_s, weight_bytes).total_s


def _weights_bytes(graph: Graph) -> int:
    return sum(tensor.nbytes for tensor in graph.constants.values())


def _is_forced_apart(nodes: Sequence[str], named: Mapping[str, frozenset[str]]) -> bool:
    allowed = [named[node] for node in nodes if node in named]
    return len(allowed) > 1 and not frozenset.intersection(*allowed)


def _node_shares_s(
    graph: Graph, costs: Costs, device: Device, kernels: Sequence[tuple[tuple[str, ...], float]]
) -> dict[str, float]:
    """Share out the time of each kernel over its nodes, in proportion to the profile's costs."""
    shares_s = {}
    for nodes, time_s in kernels:
        alone_s = [costs.node_time_s(graph.digraph.nodes[node]["features"], device.id) for node in nodes]
        total_s = sum(alone_s)
        for node, part_s in zip(nodes, alone_s, strict=True):
            shares_s[node] = time_s * part_s / total_s if 0 < total_s < inf else time_s / len(nodes)
    return shares_s


def _read(cache: Path) -> dict[str, _ModelTimes]:
    """Return earlier measurements; none where the file is missing or damaged."""
    return read_cache(cache, dict[str, _ModelTimes], "the calibrations", "the model is measured again") or {}
