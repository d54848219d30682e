"""Measures the predictions that a new user sees: splits in an empty folder of profiles, run right after.

Each model is split by each strategy as ``trisect split`` does it, with the default budget. Each plan, and each device
alone, then runs in a process of its own as ``trisect run`` does, and once more after all others of the model: the
difference is the repeatability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from trisect import api
from trisect.profiles.measuring.call_timing import time_calls
from trisect.runtime.child_process import ChildProcess, ChildProcessFailed
from trisect.runtime.errors import EngineFailed, InvalidModel, TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session

from ...model_packages import ModelFile
from ...separate_caches import caches_in
from .prediction_error import kendall_tau, measured_s, models_in

STRATEGIES = ("heft", "mincut", "dp-chain", "roundrobin", "multilevel")
FRESH_MEDIAN_MAX, FRESH_P95_MAX, FRESH_TAU_MIN, COVERAGE = 0.10, 0.30, 0.85, (0.85, 0.95)
_LASTING_S, _RUNS_MIN, _TIME_LIMIT_S = 0.7, 10, 300.0


@dataclass(frozen=True)
class FreshRun:
    """One plan: predicted when it was made, and measured."""

    strategy: str
    """A device id for the whole model on it."""
    segments: int
    predicted_s: float
    interval_s: tuple[float, float] | None
    """90 % interval of the prediction."""
    measured_s: float
    """Median of a session's call."""
    again_s: float
    """In another process."""

    @property
    def is_cut(self) -> bool:
        return ":" not in self.strategy

    @property
    def is_inside(self) -> bool:
        """Whether the measurement is inside of the interval."""
        return self.interval_s is not None and self.interval_s[0] <= measured_s(self) <= self.interval_s[1]


@dataclass(frozen=True)
class FreshModel:
    """All plans of one model."""

    model: str
    runs: tuple[FreshRun, ...]


@dataclass(frozen=True)
class FreshBench:
    """Predicted against measured latency, over all models and strategies; single devices do not count."""

    median_abs_error: float
    p95_abs_error: float
    kendall_tau: float | None
    """Of pairs of a model's plans that differ by more than the repeatability."""
    coverage: float
    """Share of plans whose measured latency is inside of the 90 % interval."""
    repeatability: float
    """Median relative difference of a plan measured again in another process."""
    repeatability_p95: float
    plans: int
    models: tuple[FreshModel, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    """Model or plan -> why it was not measured."""

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        low, high = COVERAGE
        return (
            self.median_abs_error <= FRESH_MEDIAN_MAX
            and self.p95_abs_error <= FRESH_P95_MAX
            and self.kendall_tau is not None
            and self.kendall_tau >= FRESH_TAU_MIN
            and low <= self.coverage <= high
        )


def bench_fresh(
    folder: Path,
    *,
    devices: str = "cpu:ort,cpu:openvino",
    names: Sequence[str] = (),
    strategies: Sequence[str] = STRATEGIES,
    progress: Progress = no_progress,
) -> FreshBench:
    """Split real models in an empty folder of profiles, and measure the plans.

    Parameters
    ----------
    folder : Path
        Folder of the models; see `trisect.bench.models`.
    devices : str
        Two or more of this machine.
    names : sequence of str
        Substrings of the models' names; empty for all.
    strategies : sequence of str

    Raises
    ------
    InvalidModel
        Where the folder holds none of the models, or none could be measured.
    """
    models: list[FreshModel] = []
    left_out: dict[str, str] = {}
    files = models_in(folder, names)
    with TemporaryDirectory(prefix="trisect-fresh-") as scratch, caches_in(Path(scratch) / "caches"):
        for number, file in enumerate(files):
            progress(number, len(files), file.name)
            try:
                plans = _plans(file, folder / file.name, devices, strategies, Path(scratch) / file.name, left_out)
                models.append(FreshModel(file.name, _measured(plans)))
            except TrisectError as error:
                left_out[file.name] = error.message
    if not models:
        raise InvalidModel(f"no model could be measured: {next(iter(left_out.values()))}", remedy="see --debug")
    return summarise_fresh(models, left_out)


def summarise_fresh(models: Sequence[FreshModel], left_out: dict[str, str]) -> FreshBench:
    """Return the figures over all models."""
    runs = [run for model in models for run in model.runs if run.is_cut]
    errors = [abs(run.predicted_s / measured_s(run) - 1) for run in runs]
    differences = [abs(run.again_s / run.measured_s - 1) for run in runs]
    repeatability = float(np.median(differences))
    tau = kendall_tau([model.runs for model in models], lambda run: run.predicted_s, repeatability)
    return FreshBench(
        float(np.median(errors)), float(np.percentile(errors, 95)), tau,
        float(np.mean([run.is_inside for run in runs])), repeatability, float(np.percentile(differences, 95)),
        len(runs), tuple(models), left_out,
    )  # fmt: skip


def _plans(
    file: ModelFile, path: Path, devices: str, strategies: Sequence[str], folder: Path, left_out: dict[str, str]
) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for strategy in (*(f"single:{device.id}" for device in api.devices(devices)), *strategies):
        try:
            plan = api.split(path, devices, strategy, shapes=file.shapes, verify=False, out=folder / strategy)
        except TrisectError as error:
            left_out[f"{file.name}, {strategy}"] = error.message
            continue
        plans[strategy] = plan
    return plans


def _measured(plans: dict[str, Plan]) -> tuple[FreshRun, ...]:
    first, again = ([_latency_s(plan) for plan in plans.values()] for _ in range(2))
    return tuple(
        FreshRun(
            strategy.removeprefix("single:"), len(plan.segments), plan.predicted.latency_s, plan.interval, *measured_s
        )
        for (strategy, plan), *measured_s in zip(plans.items(), first, again, strict=True)
    )


def _latency_s(plan: Plan) -> float:
    """Run a plan in a new process, and return the median seconds of a call."""
    with ChildProcess(FreshPlanRunner, "a process") as child:
        try:
            answer = child.request({"folder": plan.folder}, time_limit_s=_TIME_LIMIT_S)
        except ChildProcessFailed as error:
            message = f"the plan did not run: {error.reason}"
            raise EngineFailed(message, remedy="leave the model out with --models", reason=error.reason) from error
    return msgspec.convert(answer, float)


class FreshPlanRunner:
    """Runs a plan in a session, and returns the median seconds of a call."""

    def __call__(self, request: dict[str, Any]) -> float:
        """Load and run the plan of a folder."""
        plan = Plan.load(request["folder"])
        feeds = plan_feeds(plan)
        with Session(plan) as session:
            return time_calls(lambda: session.run(feeds), duration_s=_LASTING_S, min_runs=_RUNS_MIN).median_s
