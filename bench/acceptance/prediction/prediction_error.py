"""Error of predicted times on real models that no cost model was fitted to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from trisect.partitioner.costs.network_measurement import measure_networks
from trisect.profiles.stored.segment_store import SegmentStore, load_segments, save_segments, segments_path
from trisect.runtime import engines
from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, InvalidModel, ProfileMissing, TrisectError
from trisect.runtime.progress import Progress, no_progress

from ...model_packages import ModelFile, known_files
from .split_predictions import ROUNDS, FittedDevices, ModelRuns, SplitRun, measure_model

MEDIAN_MAX, P95_MAX, OF_REPEATABILITY_MAX, TAU_MIN, QUERY_MAX_S = 0.05, 0.15, 1.5, 0.9, 20e-6
_NO_RANDOM_FEEDS = frozenset({"silero_vad.onnx"})
"""Accepts only two sampling rates, so it cannot run on random feeds."""

_KNOWN = "the model whole on each device"


@dataclass(frozen=True)
class PredictionErrors:
    """Absolute relative errors over all splits."""

    known: str
    """What was measured before predicting."""
    median: float
    p95: float
    kendall_tau: float | None
    """Of the ranking of one model's splits that differ by more than the repeatability; None where none do."""


@dataclass(frozen=True)
class PredictBench:
    """Predicted against measured end-to-end latency.

    The first figures are those of ``trisect split``: the whole model ran on each device with the engine's profiler
    enabled; no part of it ran alone.
    """

    median_abs_error: float
    p95_abs_error: float
    kendall_tau: float | None
    repeatability: float
    """Median relative difference of a split measured again in another process."""
    repeatability_p95: float
    splits: int
    models: int
    query_s_per_node: float
    within_two_deviations: float
    """Share of splits within twice the standard deviation that the cost model predicts; ideally 0.95."""
    learned_from: dict[str, int]
    """Device id -> measured segments of synthetic networks."""
    errors: tuple[PredictionErrors, ...] = ()
    per_model: tuple[ModelRuns, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Model -> why it was not measured."""

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        median_max = max(MEDIAN_MAX, OF_REPEATABILITY_MAX * self.repeatability)
        p95_max = max(P95_MAX, OF_REPEATABILITY_MAX * self.repeatability_p95)
        enough = self.models >= 8 and self.splits >= 60
        ranks = self.kendall_tau is not None and self.kendall_tau >= TAU_MIN
        close = self.median_abs_error <= median_max and self.p95_abs_error <= p95_max
        return enough and ranks and close and self.query_s_per_node <= QUERY_MAX_S


def bench_predict(
    folder: Path,
    *,
    devices: str = "cpu:ort,cpu:openvino",
    names: Sequence[str] = (),
    splits: int = 6,
    budget_s: float = 300.0,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Progress = no_progress,
) -> PredictBench:
    """Measure synthetic networks, then cut real models at random, predict and run them.

    Measurements are cached and extended by the next call; so are the results of models with the same splits, seed,
    versions and fitted cost models.

    Parameters
    ----------
    folder : Path
        Folder of the models; see `trisect.bench.models`.
    devices : str
        Two or more of this machine.
    names : sequence of str
        Substrings of the models' names; empty for all.
    splits : int
        Random splits of each model.
    budget_s : float
        For measuring synthetic networks, earlier measurements included.
    seed : int
    rounds : int
        Rounds over all splits of a model, in each of two processes.
    progress : callable, optional

    Raises
    ------
    InvalidInput
        For a single device.
    InvalidModel
        Where the folder holds none of the models.
    ProfileMissing
        Where the budget was too small to fit a cost model.
    """
    chosen = engines.find_devices(devices)
    if len(chosen) < 2:
        raise InvalidInput(f"{devices} is one device", remedy="give two or more, comma-separated")
    files = models_in(folder, names)
    path = segments_path()
    store = load_segments(path)
    left_s = budget_s - store.spent_s
    if left_s > 0:
        store = measure_networks(
            chosen, store, budget_s=left_s, save=lambda s: save_segments(s, path), progress=progress
        )
    fitted = FittedDevices.of(chosen, store)
    cache = path.parent / "predictions"
    measured, left_out = [], {}
    for number, file in enumerate(files):
        progress(number, len(files), file.name)
        cached = cache / f"{_identity(chosen, store, file.sha256, splits, seed, rounds)}.json"
        try:
            runs = _read_cached(cached)
            if runs is None:
                runs = measure_model(file, folder / file.name, chosen, fitted, splits=splits, seed=seed, rounds=rounds)
                write_atomically(cached, msgspec.json.encode(runs))
            measured.append(runs)
        except TrisectError as error:
            left_out[file.name] = error.message
    if not measured:
        raise ProfileMissing(f"no model could be measured: {next(iter(left_out.values()))}", remedy="see --debug")
    return summarise(measured, fitted.segments, left_out)


def models_in(folder: Path, names: Sequence[str] = ()) -> list[ModelFile]:
    """Return the known ONNX models of a folder, whose names contain one of some substrings.

    Raises
    ------
    InvalidModel
        When there is none.
    """
    files = [
        file for name, file in known_files().items()
        if (folder / name).exists() and name.endswith(".onnx") and name not in _NO_RANDOM_FEEDS
        and (not names or any(part in name for part in names))
    ]  # fmt: skip
    if not files:
        raise InvalidModel(f"no known model in {folder}", remedy="fetch some: python -m trisect.bench.models ...")
    return files


def summarise(
    measured: Sequence[ModelRuns], learned_from: Mapping[str, int], left_out: Mapping[str, str]
) -> PredictBench:
    """Return the figures over all models; whole models are predicted too, but only splits count."""
    cuts = [run for model in measured for run in model.runs if run.is_cut]
    differences = np.array([abs(run.again_s / run.measured_s - 1) for run in cuts])
    repeatability = float(np.median(differences))
    predictions: dict[str, Callable[[SplitRun], float]] = {
        "nothing of the model": _unseen_s,
        _KNOWN: _whole_s,
        "that, and its other splits": _refined_s,
    }
    errors = []
    for known, predicted in predictions.items():
        relative = [abs(predicted(run) / measured_s(run) - 1) for run in cuts]
        tau = kendall_tau([model.runs for model in measured], predicted, repeatability)
        errors.append(PredictionErrors(known, float(np.median(relative)), float(np.percentile(relative, 95)), tau))
    of_split = next(error for error in errors if error.known == _KNOWN)
    inside = [abs(run.whole_s / measured_s(run) - 1) <= 2 * run.deviation for run in cuts]
    return PredictBench(
        of_split.median, of_split.p95, of_split.kendall_tau, repeatability, float(np.percentile(differences, 95)),
        len(cuts), len(measured), float(np.median([model.query_s_per_node for model in measured])),
        float(np.mean(inside)),
        dict(learned_from), tuple(errors), tuple(measured), dict(left_out),
    )  # fmt: skip


class TwiceMeasured(Protocol):
    """A plan of a model that ran in two processes."""

    @property
    def measured_s(self) -> float: ...
    @property
    def again_s(self) -> float: ...
    @property
    def is_cut(self) -> bool: ...


_Run = TypeVar("_Run", bound=TwiceMeasured)


def kendall_tau(
    models: Sequence[Sequence[_Run]], predicted: Callable[[_Run], float], repeatability: float
) -> float | None:
    """Return Kendall's tau: concordant less discordant pairs of a model's cut plans, as a share of all pairs.

    Only pairs count that differ by more than the repeatability, and that both processes rank alike.
    """
    signs = []
    for runs in models:
        for a, b in combinations([run for run in runs if run.is_cut], 2):
            low, high = sorted((measured_s(a), measured_s(b)))
            is_certain = (a.measured_s - b.measured_s) * (a.again_s - b.again_s) > 0
            if is_certain and high / low - 1 > repeatability:
                signs.append(np.sign((predicted(a) - predicted(b)) * (measured_s(a) - measured_s(b))))
    return float(np.mean(signs)) if signs else None


def _unseen_s(run: SplitRun) -> float:
    return run.unseen_s


def _whole_s(run: SplitRun) -> float:
    return run.whole_s


def _refined_s(run: SplitRun) -> float:
    return run.refined_s


def measured_s(run: TwiceMeasured) -> float:
    """Return the mean of both processes."""
    return (run.measured_s + run.again_s) / 2


def _read_cached(path: Path) -> ModelRuns | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelRuns)
    except (OSError, msgspec.DecodeError):
        return None


def _identity(devices: Sequence[Device], store: SegmentStore, *rest: object) -> str:
    fitted = [f"{d.id} {d.name} {d.engine_version} {store.networks}" for d in devices]
    return hashlib.sha256(repr((fitted, rest)).encode()).hexdigest()[:24]
