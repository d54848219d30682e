"""Judges predictions: real models cut at random, predicted by what was learned elsewhere, then run.

Each split runs in two processes, one after the other: how far these two differ is what no prediction can be better
than. What is known beforehand is told apart: nothing of the model, or all but the split at hand.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from trisect.partitioner.learning import measured_segments
from trisect.partitioner.trialplans import TrialModel, TrialPlan, trial_feeds
from trisect.profiles.costmodel import DeviceModel
from trisect.profiles.segments import MeasuredSegment, SegmentStore
from trisect.profiles.store import write_aside
from trisect.profiles.trials import Trial, run_trial
from trisect.runtime.devices import Device
from trisect.runtime.errors import EngineFailed, TrisectError
from trisect.runtime.plan import Plan

from .model_packages import ModelFile

_CUTS = 7
_LASTING_S, _FEWEST, _MOST = 0.25, 8, 60
_TIME_LIMIT_S = 300.0

Progress = Callable[[int, int, str], None]


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
    """Predicted once the model had run whole on each device."""
    refined_s: float
    """Predicted once it had run in its other splits too."""
    deviation: float
    """Of `unseen_s`, as the cost model itself says, as a share."""

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


@dataclass(frozen=True)
class Hops:
    """What a call of a session takes beyond its segments."""

    start_s: float
    hop_s: float

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> Hops:
        """From segments and seconds beyond them, of many plans; the middle of all that pairs of plans say."""
        counts, beyond = np.array([n for n, _ in points], float), np.array([s for _, s in points])
        few, many = counts <= np.median(counts), counts > np.median(counts)
        if not many.any():
            return cls(max(0.0, float(np.median(beyond))), 0.0)
        hop_s = float((np.median(beyond[many]) - np.median(beyond[few]))
                      / (np.median(counts[many]) - np.median(counts[few])))  # fmt: skip
        hop_s = max(0.0, hop_s)
        return cls(max(0.0, float(np.median(beyond - hop_s * (counts - 1)))), hop_s)

    def of(self, segments: int) -> float:
        """Seconds for a plan of that many segments."""
        return self.start_s + self.hop_s * (segments - 1)


@dataclass
class Learned:
    """What is known before a model is looked at."""

    models: Mapping[str, DeviceModel]
    hops: Hops
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
        return cls(models, Hops.fit(store.beyond or [(1, 0.0)]), {key: len(found) for key, found in rows.items()})


def judge_model(
    file: ModelFile, path: Path, devices: Sequence[Device], learned: Learned, *, splits: int, seed: int
) -> ModelRuns:
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

    Raises
    ------
    TrisectError
        Where the model cannot be cut or run.
    """
    with TemporaryDirectory(prefix="trisect-predict-") as scratch:
        model = TrialModel(path, file.shapes, devices)
        plans: dict[str, TrialPlan] = {d.id: model.whole(d, Path(scratch) / f"whole{i}") for i, d in enumerate(devices)}
        for number in range(splits):
            plans[str(number)] = model.random(f"{file.name} {seed} {number}", _CUTS, Path(scratch) / f"cut{number}")
        first, second = (_measure([p.plan for p in plans.values()], Path(scratch)) for _ in range(2))
    nodes = max(1, sum(len(segment.nodes) for segment in next(iter(plans.values())).plan.segments))
    known = {name: (plan, trial) for (name, plan), trial in zip(plans.items(), first, strict=True)}
    runs, query_s = [], 0.0
    for index, (name, trial_plan) in enumerate(plans.items()):
        begun_s = time.perf_counter()
        unseen_s = _latency_s(trial_plan, learned.models, learned.hops)
        query_s += time.perf_counter() - begun_s
        ran = [(other, trial) for key, (other, trial) in known.items() if key != name]
        wholes = [(other, trial) for key, (other, trial) in known.items() if key != name and ":" in key]
        whole_s, refined_s = (
            _latency_s(trial_plan, refined(learned.models, some), learned.hops) for some in (wholes, ran)
        )
        deviation = _deviation(trial_plan, learned.models)
        runs.append(
            SplitRun(name, len(trial_plan.plan.segments), first[index].latency_s, second[index].latency_s, unseen_s,
                     whole_s, refined_s, deviation)
        )  # fmt: skip
    return ModelRuns(file.name, nodes, tuple(runs), query_s / len(plans) / nodes)


def refined(
    models: Mapping[str, DeviceModel], measured: Sequence[tuple[TrialPlan, Trial]]
) -> dict[str, DeviceModel]:  # fmt: skip
    """Models that remember the segments of plans that ran."""
    rows: dict[str, list[MeasuredSegment]] = {device: [] for device in models}
    for plan, trial in measured:
        for device, row in measured_segments(plan, trial, "plan"):
            rows[device].append(row)
    return {device: model.remembering(rows[device]) if rows[device] else model for device, model in models.items()}


def _latency_s(plan: TrialPlan, models: Mapping[str, DeviceModel], hops: Hops) -> float:
    """Segments one after the other: engines that share all cores gain nothing by running at once."""
    parts = zip(plan.plan.segments, plan.terms, strict=True)
    return sum(models[s.device].time_s(terms) for s, terms in parts) + hops.of(len(plan.terms))


def _deviation(plan: TrialPlan, models: Mapping[str, DeviceModel]) -> float:
    estimates = [models[s.device].estimate(t) for s, t in zip(plan.plan.segments, plan.terms, strict=True)]
    total_s = sum(e.time_s for e in estimates)
    return float(np.sqrt(sum((e.time_s * e.deviation) ** 2 for e in estimates)) / max(total_s, 1e-12))


def _measure(plans: Sequence[Plan], scratch: Path) -> list[Trial]:
    """Run plans in a process of their own."""
    answer = scratch / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "trisect.bench.predicting", str(answer), *(plan.folder for plan in plans)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(
            f"the splits did not run within {_TIME_LIMIT_S:g} s", remedy="give fewer --splits"
        ) from error
    if done.returncode != 0 or not answer.exists():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineFailed(f"the splits did not run: {reason}", remedy="leave the model out with --models")
    return msgspec.json.decode(answer.read_bytes(), type=list[Trial])


def main(answer: str, *folders: str) -> None:
    """Run the plans in these folders and write their trials."""
    trials = []
    for folder in folders:
        plan = Plan.load(folder)
        trials.append(run_trial(plan, trial_feeds(plan), lasting_s=_LASTING_S, fewest=_FEWEST, most=_MOST))
    write_aside(Path(answer), msgspec.json.encode(trials))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TrisectError as error:
        sys.exit(str(error))
