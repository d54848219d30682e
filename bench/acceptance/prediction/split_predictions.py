"""Measures predictions: real models are cut at random, predicted by cost models of other networks, and run.

Each split runs in two processes that take turns: their difference is the repeatability, and no prediction can be
better. Predictions are made with three kinds of knowledge: nothing of the model, its kernels in the whole model, or all
splits but the one that is predicted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from trisect.partitioner.costs.kernel_breakdown import kernel_segments, measure_calls
from trisect.partitioner.costs.network_measurement import measured_segments
from trisect.partitioner.costs.trial_plans import TrialModel, TrialPlan
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel.call_costs import CallCosts, plan_latency_s
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment, SegmentStore
from trisect.runtime.device import Device

from ...model_packages import ModelFile
from .measurement_rounds import measure_in_turns, median_trial

_CUTS = 7
ROUNDS = 5


@dataclass(frozen=True)
class SplitRun:
    """One split of one model: predicted, and measured twice."""

    split: str
    """A device id for the whole model on it, else the seed of the cuts."""
    segments: int
    measured_s: float
    again_s: float
    """In another process."""
    unseen_s: float
    """Predicted from synthetic networks alone: nothing of this model was measured."""
    whole_s: float
    """Predicted after the whole model ran on each device with the engine's profiler enabled, as for a split."""
    refined_s: float
    """Predicted after its other splits ran too."""
    deviation: float
    """Relative standard deviation of `whole_s` that the cost model predicts."""

    @property
    def is_cut(self) -> bool:
        return ":" not in self.split


@dataclass(frozen=True)
class ModelRuns:
    """All splits of one model."""

    model: str
    nodes: int
    runs: tuple[SplitRun, ...]
    query_s_per_node: float


@dataclass
class FittedDevices:
    """Cost models of the devices, fitted on synthetic networks."""

    models: Mapping[str, DeviceModel]
    segments: Mapping[str, int] = field(default_factory=dict)
    """Device id -> number of measured segments that its cost model was fitted to."""

    @classmethod
    def of(cls, devices: Sequence[Device], store: SegmentStore) -> FittedDevices:
        """Fit a cost model of each device.

        Raises
        ------
        ProfileMissing
            Where too little was measured.
        """
        # Synthetic networks only: the store also holds measurements of the user's models.
        rows = {d.id: [row for row in store.of(d) if row.origin == "network"] for d in devices}
        models = {device_id: DeviceModel.fit(segments, device_id) for device_id, segments in rows.items()}
        return cls(models, {key: len(segments) for key, segments in rows.items()})


def measure_model(
    file: ModelFile, path: Path, devices: Sequence[Device], fitted: FittedDevices, *, splits: int, seed: int,
    rounds: int,
) -> ModelRuns:  # fmt: skip
    """Cut one model at random, predict its splits, and run them.

    Parameters
    ----------
    file : ModelFile
    path : Path
        The model's file.
    devices : sequence of Device
    fitted : FittedDevices
    splits : int
        Number of random splits, beside the whole model on each device.
    seed : int
    rounds : int
        Rounds over all splits.

    Raises
    ------
    TrisectError
        Where the model cannot be cut or run.
    """
    with TemporaryDirectory(prefix="trisect-predict-") as scratch:
        model = TrialModel(Graph.read(path, file.shapes), devices)
        plans: dict[str, TrialPlan] = {d.id: model.whole(d, Path(scratch) / f"whole{i}") for i, d in enumerate(devices)}
        for number in range(splits):
            plans[str(number)] = model.random(f"{file.name} {seed} {number}", _CUTS, Path(scratch) / f"cut{number}")
        calls = measure_calls(devices)
        turns: list[list[list[PlanTiming]]] = []
        profiled: dict[str, list[list[tuple[str, MeasuredSegment]]]] = {device.id: [] for device in devices}
        for turn in measure_in_turns([p.plan for p in plans.values()], processes=2, rounds=rounds):
            turns.append(turn)
            for index, device in enumerate(devices):
                whole = median_trial([trials[index] for trials in turn])
                profiled[device.id].append(kernel_segments(model, plans[device.id], whole, calls.wakeup_costs.warm_s))
    first, second = (
        [median_trial(trials) for trials in zip(*(turn[i] for turn in turns), strict=True)] for i in (0, 1)
    )
    both = [median_trial(pair) for pair in zip(first, second, strict=True)]
    known = {name: (plan, trial) for (name, plan), trial in zip(plans.items(), both, strict=True)}
    inside = [*calls.warm.items(), *(row for rows in profiled.values() for row in _middle(rows))]
    ran = {name: measured_segments(plan, trial, calls, "plan") for name, (plan, trial) in known.items()}
    wholes = [row for name, rows in ran.items() if ":" in name for row in rows]
    unseen_models = fitted.models
    profiled_models = refined(fitted.models, wholes + inside)
    alone_s = [trial.session_overhead_s for _, trial in known.values() if len(trial.segments_s) == 1]
    session_s = float(np.median(alone_s)) if alone_s else calls.session_s
    runs, query_s = [], 0.0
    for index, (name, trial_plan) in enumerate(plans.items()):
        start_perf_s = time.perf_counter()
        unseen_s = _latency_s(trial_plan, unseen_models, calls)
        query_s += time.perf_counter() - start_perf_s
        others = [row for key, rows in ran.items() if key != name for row in rows]
        refined_models = refined(fitted.models, others + inside)
        runs.append(
            SplitRun(
                name, len(trial_plan.plan.segments), first[index].latency_s, second[index].latency_s, unseen_s,
                _latency_s(trial_plan, profiled_models, calls, session_s),
                _latency_s(trial_plan, refined_models, calls, session_s),
                _deviation(trial_plan, profiled_models),
            )
        )  # fmt: skip
    nodes = max(1, sum(len(segment.nodes) for segment in next(iter(plans.values())).plan.segments))
    return ModelRuns(file.name, nodes, tuple(runs), query_s / len(plans) / nodes)


def _middle(rounds: Sequence[Sequence[tuple[str, MeasuredSegment]]]) -> list[tuple[str, MeasuredSegment]]:
    """Return the median of each kernel over the rounds that list the same kernels as the last."""
    last = rounds[-1]
    alike = [rows for rows in rounds if [row.terms for _, row in rows] == [row.terms for _, row in last]]
    return [
        (device, replace(row, time_s=float(np.median([rows[i][1].time_s for rows in alike]))))
        for i, (device, row) in enumerate(last)
    ]


def refined(
    models: Mapping[str, DeviceModel], measured: Sequence[tuple[str, MeasuredSegment]]
) -> dict[str, DeviceModel]:
    """Return cost models that know the measurements of one model: pairs of device id and segment."""
    rows: dict[str, list[MeasuredSegment]] = {device: [] for device in models}
    for device, row in measured:
        rows[device].append(row)
    return {device: model.refined(rows[device]) if rows[device] else model for device, model in models.items()}


def _latency_s(
    plan: TrialPlan, models: Mapping[str, DeviceModel], calls: CallCosts, session_s: float | None = None
) -> float:
    """Return the time of the segments one after the other: engines that share all cores gain nothing in parallel."""
    parts = [(s.device, models[s.device].time_s(t)) for s, t in zip(plan.plan.segments, plan.terms, strict=True)]
    return plan_latency_s(parts, calls, session_s)


def _deviation(plan: TrialPlan, models: Mapping[str, DeviceModel]) -> float:
    """Return the relative deviation; the errors of one model's segments are assumed to be correlated."""
    estimates = [models[s.device].estimate(t) for s, t in zip(plan.plan.segments, plan.terms, strict=True)]
    total_s = sum(e.time_s for e in estimates)
    return sum(e.time_s * e.deviation for e in estimates) / max(total_s, 1e-12)
