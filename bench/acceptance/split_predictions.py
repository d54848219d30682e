"""Judges predictions: real models cut at random, predicted by what was learned elsewhere, then run.

Each split runs in two processes that take turns: how far these two differ is what no prediction can be better than.
What is known beforehand is told apart: nothing of the model, its kernels in the whole model, or all but the split at
hand.
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
from trisect.profiles.costmodel.call_costs import Calls, plan_time_s
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.measuring.plan_trial import Trial
from trisect.profiles.stored.segment_store import MeasuredSegment, SegmentStore
from trisect.runtime.device import Device

from ..model_packages import ModelFile
from .measurement_rounds import measure_in_turns, median_trial

_CUTS = 7
ROUNDS = 5


@dataclass(frozen=True)
class SplitRun:
    """One split of one model: predicted, and measured twice."""

    split: str
    """``cpu:ort`` for the whole model there, else the seed of its cuts."""
    segments: int
    measured_s: float
    again_s: float
    """In another process."""
    unseen_s: float
    """Predicted from made-up networks alone: nothing of this model was measured."""
    whole_s: float
    """Predicted once the model had run whole on each device, its engine's profiler looking on: what a split knows."""
    refined_s: float
    """Predicted once it had run in its other splits too."""
    deviation: float
    """Of `whole_s`, as the cost model itself says, as a share."""

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
class Learned:
    """What is known before a model is looked at."""

    models: Mapping[str, DeviceModel]
    segments: Mapping[str, int] = field(default_factory=dict)
    """How many measured segments each device's model was learned from."""

    @classmethod
    def of(cls, devices: Sequence[Device], store: SegmentStore) -> Learned:
        """Fit a model of each device.

        Raises
        ------
        ProfileMissing
            Where too little was measured.
        """
        # Nothing of anybody's model: what was measured of these is in the store too.
        rows = {d.id: [row for row in store.of(d) if row.origin == "network"] for d in devices}
        models = {device_id: DeviceModel.learn(found, device_id) for device_id, found in rows.items()}
        return cls(models, {key: len(found) for key, found in rows.items()})


def judge_model(
    file: ModelFile, path: Path, devices: Sequence[Device], learned: Learned, *, splits: int, seed: int,
    rounds: int,
) -> ModelRuns:  # fmt: skip
    """Cut one model, predict, and run.

    Parameters
    ----------
    file : ModelFile
    path : Path
        Where the model is.
    devices : sequence of Device
    learned : Learned
    splits : int
        Random ones; beside them the whole model on each device.
    seed : int
    rounds : int
        How often all take their turn.

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
        turns: list[list[list[Trial]]] = []
        looks: dict[str, list[list[tuple[str, MeasuredSegment]]]] = {device.id: [] for device in devices}
        for turn in measure_in_turns([p.plan for p in plans.values()], processes=2, rounds=rounds):
            turns.append(turn)
            for index, device in enumerate(devices):
                whole = median_trial([trials[index] for trials in turn])
                looks[device.id].append(kernel_segments(model, plans[device.id], whole, calls.wakings.awake_s))
    first, second = (
        [median_trial(trials) for trials in zip(*(turn[i] for turn in turns), strict=True)] for i in (0, 1)
    )
    both = [median_trial(pair) for pair in zip(first, second, strict=True)]
    known = {name: (plan, trial) for (name, plan), trial in zip(plans.items(), both, strict=True)}
    inside = [*calls.awake.items(), *(row for rows in looks.values() for row in _middle(rows))]
    ran = {name: measured_segments(plan, trial, calls, "plan") for name, (plan, trial) in known.items()}
    wholes = [row for name, rows in ran.items() if ":" in name for row in rows]
    called = refined(learned.models, list(calls.awake.items()))
    looked = refined(learned.models, wholes + inside)
    alone_s = [trial.beyond_s for _, trial in known.values() if len(trial.segments_s) == 1]
    start_s = float(np.median(alone_s)) if alone_s else calls.start_s
    runs, query_s = [], 0.0
    for index, (name, trial_plan) in enumerate(plans.items()):
        begun_s = time.perf_counter()
        unseen_s = _latency_s(trial_plan, called, calls)
        query_s += time.perf_counter() - begun_s
        others = [row for key, rows in ran.items() if key != name for row in rows]
        taught = refined(learned.models, others + inside)
        runs.append(
            SplitRun(
                name, len(trial_plan.plan.segments), first[index].latency_s, second[index].latency_s, unseen_s,
                _latency_s(trial_plan, looked, calls, start_s), _latency_s(trial_plan, taught, calls, start_s),
                _deviation(trial_plan, looked),
            )
        )  # fmt: skip
    nodes = max(1, sum(len(segment.nodes) for segment in next(iter(plans.values())).plan.segments))
    return ModelRuns(file.name, nodes, tuple(runs), query_s / len(plans) / nodes)


def _middle(rounds: Sequence[Sequence[tuple[str, MeasuredSegment]]]) -> list[tuple[str, MeasuredSegment]]:
    """Of each kernel the median over several looks; of the last one alone where an engine told them apart otherwise."""
    last = rounds[-1]
    alike = [rows for rows in rounds if [row.terms for _, row in rows] == [row.terms for _, row in last]]
    return [
        (device, replace(row, time_s=float(np.median([rows[i][1].time_s for rows in alike]))))
        for i, (device, row) in enumerate(last)
    ]


def refined(
    models: Mapping[str, DeviceModel], measured: Sequence[tuple[str, MeasuredSegment]]
) -> dict[str, DeviceModel]:
    """Models that remember what was measured of one model: device ids and figures."""
    rows: dict[str, list[MeasuredSegment]] = {device: [] for device in models}
    for device, row in measured:
        rows[device].append(row)
    return {device: model.remembering(rows[device]) if rows[device] else model for device, model in models.items()}


def _latency_s(plan: TrialPlan, models: Mapping[str, DeviceModel], calls: Calls, start_s: float | None = None) -> float:
    """Segments one after the other: engines that share all cores gain nothing by running at once."""
    parts = [(s.device, models[s.device].time_s(t)) for s, t in zip(plan.plan.segments, plan.terms, strict=True)]
    return plan_time_s(parts, calls, start_s)


def _deviation(plan: TrialPlan, models: Mapping[str, DeviceModel]) -> float:
    """As a share of the segments' time; what is off in one segment of a model is off in the others too."""
    estimates = [models[s.device].estimate(t) for s, t in zip(plan.plan.segments, plan.terms, strict=True)]
    total_s = sum(e.time_s for e in estimates)
    return sum(e.time_s * e.deviation for e in estimates) / max(total_s, 1e-12)
