"""Measures a few cuts of the model that is split, which correct the cost models of its devices.

A whole model shows what its operators take, but not what boundaries cost, what engines lose that wake up behind each
other, and which fusions a cut prevents. In the end the whole model runs again on each device: by how much that differs
tells how steady the machine is. Where plans run afterwards, each device alone among them, less is measured here. The
cuts are chosen by `informative_cuts`. Measurements are cached, so that the same request gives the same plan.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import log as ln
from math import sqrt
from pathlib import Path

import msgspec

from trisect.profiles.drift.drift_factor import drift, is_outdated
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.device import Device
from trisect.runtime.errors import TrisectError
from trisect.runtime.files.cache_files import read_cache, update_cache
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder

from ..problem.problem_builder import PACE_DEVIATION, ProblemInputs
from .informative_cuts import CandidateCut, most_informative
from .isolated_measurement import PROFILED_TIME_MAX_S, measure_segments
from .model_costs import measurement_key, segment_terms_of
from .trial_plans import TrialModel

log = logging.getLogger(__name__)

CUTS_SUFFIX = ".cuts.json"
_CANDIDATES, _SEGMENT_CUTS_MAX = 40, 7
_CUTS, _FEW_CUTS, _BUDGET_S = 4, 2, 4.0
"""Number of cuts, and the time after which no further one is measured."""
_USUAL_WEIGHT = 2
"""Number of measurements that the usual deviation of a machine's pace counts as."""


class _CutTimes(msgspec.Struct):
    """Measured segments of one cut."""

    devices: list[str]
    nodes: list[list[int]]
    """Positions in the model's order."""
    times_s: list[float]


class _MeasuredCuts(msgspec.Struct):
    """All measured cuts of a model."""

    cuts: list[_CutTimes]
    date: str
    """ISO 8601, UTC."""
    probes_s: dict[str, float]
    """Device id -> seconds of its probe at that time, where known."""


def with_measured_cuts(
    inputs: ProblemInputs,
    cache: Path,
    progress: Progress = no_progress,
    probes_s: Mapping[str, float] | None = None,
    now: datetime | None = None,
    *,
    are_few: bool = False,
) -> ProblemInputs:
    """Return the inputs with cost models that know some cuts of the model, measured now unless they are cached.

    Unchanged where fewer than two devices of this machine have a cost model, or the model takes seconds.

    Parameters
    ----------
    cache : Path
        JSON file of earlier measurements.
    probes_s : mapping of str to float, optional
        Device id -> seconds of its probe at present: where that has changed, times are scaled, or measured again.
    now : datetime, optional
    are_few : bool
        Measure half as many, and the whole model not again.
    """
    devices = [
        device for device in inputs.devices
        if device.is_real and not device.node and device.id in inputs.costs.models
    ]  # fmt: skip
    if len(devices) < 2 or not inputs.costs.is_measured:
        return inputs
    key, now, probes_s = measurement_key(inputs.graph, devices), now or datetime.now(UTC), probes_s or {}
    measured = _read(cache).get(key)
    if measured is None and not 0 < max(_whole_s(inputs, device) for device in devices) < PROFILED_TIME_MAX_S:
        return inputs
    if measured is None or any(is_outdated(measured.date, now, f) for f in _drifts(measured, probes_s).values()):
        date = now.isoformat(timespec="seconds")
        cuts = _measured(inputs, devices, progress, are_few=are_few)
        measured = _MeasuredCuts(cuts, date, dict(probes_s))

        def merged() -> bytes:
            return msgspec.json.encode({**_read(cache), key: measured})

        update_cache(cache, merged, "measured cuts")
    rows = _warm_rows(inputs, measured.cuts, _drifts(measured, probes_s))
    models = {key: inputs.costs.models[key].refined(segments) for key, segments in rows.items()}
    return replace(inputs, costs=inputs.costs.with_models(models), pace_deviation=_pace_deviation(inputs, rows))


def _pace_deviation(inputs: ProblemInputs, rows: Mapping[str, Sequence[MeasuredSegment]]) -> float:
    """Return the relative deviation of the machine's pace: usual, unless the same segments took other times again."""
    squares = []
    for device_id, segments in rows.items():
        earlier_s = {row.key: row.time_s for row in inputs.costs.models[device_id].rows if not row.is_kernel}
        ratios = [row.time_s / earlier_s[row.key] for row in segments if row.key in earlier_s]
        squares += [ln(ratio) ** 2 / 2 for ratio in ratios]
    usual = _USUAL_WEIGHT * PACE_DEVIATION**2
    return sqrt((usual + sum(squares)) / (_USUAL_WEIGHT + len(squares)))


def _drifts(measured: _MeasuredCuts, probes_s: Mapping[str, float]) -> dict[str, float]:
    """Return the factor by which each device has become slower since; for all devices of the cuts."""
    devices = {device_id for cut in measured.cuts for device_id in cut.devices} | {*measured.probes_s}
    return {device_id: drift(measured.probes_s.get(device_id), probes_s.get(device_id)) for device_id in devices}


def _measured(
    inputs: ProblemInputs, devices: Sequence[Device], progress: Progress, *, are_few: bool
) -> list[_CutTimes]:
    """Run the most informative cuts, as many as the time allows."""
    graph, start_s = inputs.graph, time.monotonic()
    position = {name: i for i, name in enumerate(graph.nodes)}
    model = TrialModel(graph, devices, inputs.refused, inputs.tasks)
    placements = [model.random_placement(f"cut {number}", _SEGMENT_CUTS_MAX) for number in range(_CANDIDATES)]
    candidates = [
        CandidateCut(tuple((piece.device, segment_terms_of(graph, piece.nodes)) for piece in model.pieces(placement)))
        for placement in placements
    ]
    cuts: list[_CutTimes] = []
    chosen = most_informative(candidates, inputs.costs.models, _FEW_CUTS if are_few else _CUTS)
    wholes = [] if are_few else [dict.fromkeys(placements[0], device.id) for device in devices]
    with ScratchFolder("cuts") as folder:
        for done, placement in enumerate([*(placements[number] for number in chosen), *wholes]):
            if time.monotonic() - start_s > _BUDGET_S and placement not in wholes:
                continue
            progress(done, len(chosen) + len(wholes), f"running cut {done + 1} of the model")
            try:
                plan = model.placed(placement, Path(folder) / str(done)).plan
                times_s = measure_segments(plan, sum(_whole_s(inputs, device) for device in devices))
            except (TrisectError, MemoryError) as error:
                log.info("a cut is not measured: %s", error)
                continue
            nodes = [[position[node] for node in segment.nodes] for segment in plan.segments]
            cuts.append(_CutTimes([segment.device for segment in plan.segments], nodes, list(times_s)))
    return cuts


def _warm_rows(
    inputs: ProblemInputs, cuts: Sequence[_CutTimes], drifts: Mapping[str, float]
) -> dict[str, list[MeasuredSegment]]:
    """Return the measured segments as they would run in a loop of their own, at the present speed of the devices."""
    names = list(inputs.graph.nodes)
    wakeup_costs = inputs.costs.wakeup_costs()
    rows: Mapping[str, list[MeasuredSegment]] = defaultdict(list)
    for cut in cuts:
        times_s = cut.times_s
        if wakeup_costs is not None:
            times_s = wakeup_costs.warm_times_s(list(zip(cut.devices, cut.times_s, strict=True)))
        for device_id, nodes, time_s in zip(cut.devices, cut.nodes, times_s, strict=True):
            terms = segment_terms_of(inputs.graph, [names[i] for i in nodes])
            rows[device_id].append(MeasuredSegment(terms, time_s * drifts.get(device_id, 1.0), 0.0, "plan"))
    return dict(rows)


def _whole_s(inputs: ProblemInputs, device: Device) -> float:
    """Return the predicted seconds of the whole model, without tasks that the device cannot run."""
    return sum(row[device.id] for row in inputs.times_s.values() if row[device.id] < float("inf"))


def _read(cache: Path) -> dict[str, _MeasuredCuts]:
    """Return earlier measurements; none where the file is missing or damaged."""
    return read_cache(cache, dict[str, _MeasuredCuts], "the cuts", "they are measured again") or {}
