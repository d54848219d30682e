"""How far predicted times are from measured ones, over real models that nothing was learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np

from trisect.partitioner.costs.network_measurement import measure_networks
from trisect.profiles.stored.profile_store import write_aside
from trisect.profiles.stored.segment_store import SegmentStore, load_segments, save_segments, segments_path
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, InvalidModel, ProfileMissing, TrisectError
from trisect.runtime.progress import Progress, no_progress

from ..model_packages import known_files
from .split_predictions import ROUNDS, Learned, ModelRuns, SplitRun, judge_model

MEDIAN_BAR, P95_BAR, OF_REPEATABILITY, TAU_BAR, QUERY_BAR_S = 0.05, 0.15, 1.5, 0.9, 20e-6
_NEEDS_NUMBERS = frozenset({"silero_vad.onnx"})
"""Takes a sampling rate of which only two values are right: random feeds do not run it."""

_KNOWN = "the model whole on each device"


@dataclass(frozen=True)
class Errors:
    """Absolute errors as shares of what was measured, over all splits."""

    known: str
    """What was measured beforehand."""
    median: float
    p95: float
    kendall_tau: float | None
    """Ranking of the splits of one model that differ by more than they repeat; None where none do."""


@dataclass(frozen=True)
class PredictBench:
    """Predicted against measured end-to-end latency; the first figures are those of what a split knows.

    That is: the model ran whole on each device, its engine's profiler looking on; no piece of it ever ran alone.
    """

    median_abs_error: float
    p95_abs_error: float
    kendall_tau: float | None
    repeatability: float
    """Median difference of a split measured again in another process."""
    repeatability_p95: float
    splits: int
    models: int
    query_s_per_node: float
    within_two_deviations: float
    """Share of splits that fall within twice the deviation that the model told; 0.95 would be perfect."""
    learned_from: dict[str, int]
    """Device id -> measured segments of made-up networks."""
    errors: tuple[Errors, ...] = ()
    per_model: tuple[ModelRuns, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Model -> why it was not judged."""

    @property
    def met(self) -> bool:
        """Whether every promise is kept."""
        median_bar = max(MEDIAN_BAR, OF_REPEATABILITY * self.repeatability)
        p95_bar = max(P95_BAR, OF_REPEATABILITY * self.repeatability_p95)
        enough = self.models >= 8 and self.splits >= 60
        ranks = self.kendall_tau is not None and self.kendall_tau >= TAU_BAR
        close = self.median_abs_error <= median_bar and self.p95_abs_error <= p95_bar
        return enough and ranks and close and self.query_s_per_node <= QUERY_BAR_S


def bench_predict(
    folder: Path,
    *,
    devices: str = "cpu:ort,cpu:openvino",
    wanted: Sequence[str] = (),
    splits: int = 6,
    budget_s: float = 300.0,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Progress = no_progress,
) -> PredictBench:
    """Learn from made-up networks, then cut real models at random, predict and run them.

    What was learned is kept and gone on with by the next call; so are the models that were judged already, of the same
    splits, seed and versions, by the same knowledge.

    Parameters
    ----------
    folder : Path
        Where the models are; see `trisect.bench.models`.
    devices : str
        Two or more of this machine.
    wanted : sequence of str
        Parts of the names of the models; all when empty.
    splits : int
        Random ones of each model.
    budget_s : float
        For learning; what was learned before counts.
    seed : int
    rounds : int
        How often all splits of a model take their turn, in each of two processes.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For no model at all, or one device.
    ProfileMissing
        Where the budget was too small to learn anything.
    """
    chosen = engines.find_devices(devices)
    if len(chosen) < 2:
        raise InvalidInput(f"{devices} is one device", remedy="give two, comma-separated")
    files = [
        file for name, file in known_files().items()
        if (folder / name).exists() and name not in _NEEDS_NUMBERS and (not wanted or any(w in name for w in wanted))
    ]  # fmt: skip
    if not files:
        raise InvalidModel(f"no known model in {folder}", remedy="fetch some: python -m trisect.bench.models ...")
    path = segments_path()
    store = load_segments(path)
    left_s = budget_s - store.spent_s
    if left_s > 0:
        store = measure_networks(
            chosen, store, budget_s=left_s, save=lambda s: save_segments(s, path), progress=progress
        )
    learned = Learned.of(chosen, store)
    kept = path.parent / "predictions"
    judged, left_out = [], {}
    for number, file in enumerate(files):
        progress(number, len(files), file.name)
        place = kept / f"{_identity(chosen, store, file.sha256, splits, seed, rounds)}.json"
        try:
            runs = _judged_before(place)
            if runs is None:
                runs = judge_model(file, folder / file.name, chosen, learned, splits=splits, seed=seed, rounds=rounds)
                write_aside(place, msgspec.json.encode(runs))
            judged.append(runs)
        except TrisectError as error:
            left_out[file.name] = error.message
    if not judged:
        raise ProfileMissing(f"no model could be judged: {next(iter(left_out.values()))}", remedy="see --debug")
    return summarise(judged, learned.segments, left_out)


def summarise(
    judged: Sequence[ModelRuns], learned_from: Mapping[str, int], left_out: Mapping[str, str]
) -> PredictBench:
    """The figures over all models; whole models are predicted too, but only splits count."""
    cuts = [run for model in judged for run in model.runs if run.is_cut]
    differ = np.array([abs(run.again_s / run.measured_s - 1) for run in cuts])
    repeatability = float(np.median(differ))
    ways: dict[str, Callable[[SplitRun], float]] = {
        "nothing of the model": _unseen_s,
        _KNOWN: _whole_s,
        "that, and its other splits": _refined_s,
    }
    errors = []
    for known, predicted in ways.items():
        off = [abs(predicted(run) / _measured_s(run) - 1) for run in cuts]
        tau = kendall_tau([model.runs for model in judged], predicted, repeatability)
        errors.append(Errors(known, float(np.median(off)), float(np.percentile(off, 95)), tau))
    usual = next(error for error in errors if error.known == _KNOWN)
    inside = [abs(run.whole_s / _measured_s(run) - 1) <= 2 * run.deviation for run in cuts]
    return PredictBench(
        usual.median, usual.p95, usual.kendall_tau, repeatability, float(np.percentile(differ, 95)), len(cuts),
        len(judged), float(np.median([model.query_s_per_node for model in judged])), float(np.mean(inside)),
        dict(learned_from), tuple(errors), tuple(judged), dict(left_out),
    )  # fmt: skip


def kendall_tau(
    models: Sequence[Sequence[SplitRun]], predicted: Callable[[SplitRun], float], repeatability: float
) -> float | None:
    """Pairs of one model's splits that are ranked right, less those ranked wrong, as a share of all such pairs.

    Only pairs count that differ by more than the repeatability, and of which both processes say which is slower.
    """
    right = wrong = 0
    for runs in models:
        for a, b in combinations([run for run in runs if run.is_cut], 2):
            low, high = sorted((_measured_s(a), _measured_s(b)))
            is_sure = (a.measured_s - b.measured_s) * (a.again_s - b.again_s) > 0
            if is_sure and high / low - 1 > repeatability:
                agrees = (predicted(a) - predicted(b)) * (_measured_s(a) - _measured_s(b))
                right, wrong = right + (agrees > 0), wrong + (agrees < 0)
    return (right - wrong) / (right + wrong) if right + wrong else None


def _unseen_s(run: SplitRun) -> float:
    return run.unseen_s


def _whole_s(run: SplitRun) -> float:
    return run.whole_s


def _refined_s(run: SplitRun) -> float:
    return run.refined_s


def _measured_s(run: SplitRun) -> float:
    """The mean of both processes."""
    return (run.measured_s + run.again_s) / 2


def _judged_before(place: Path) -> ModelRuns | None:
    try:
        return msgspec.json.decode(place.read_bytes(), type=ModelRuns)
    except (OSError, msgspec.DecodeError):
        return None


def _identity(devices: Sequence[Device], store: SegmentStore, *rest: object) -> str:
    known = [f"{d.id} {d.name} {d.engine_version} {store.networks}" for d in devices]
    return hashlib.sha256(repr((known, rest)).encode()).hexdigest()[:24]
