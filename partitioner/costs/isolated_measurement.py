"""Runs unknown models in a child process to measure them: an engine may crash on generated inputs, or never end."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import onnx

from trisect.profiles.measuring.call_timing import time_calls
from trisect.profiles.measuring.plan_trial import run_trial
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.common.kernels import Kernel
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec

from .kernel_breakdown import plan_kernels

PREDICTED_MAX_S = 20.0
"""A model whose run is predicted to take longer is not run."""
PROFILED_TIME_MAX_S = 2.0
"""A slower model is run once."""
_DURATION_MIN_S = 0.3
"""How long a model is run, and again with the engine's profiler enabled."""
_RUNS_MIN, _RUNS_MAX = 3, 2000
_TIME_LIMIT_S, _RUNS_IN_LIMIT, _WEIGHT_BYTES_PER_S = 20.0, 20, 50e6
_PLAN_RUNS_MAX = 200
_CUT_DURATION_S = 0.2


@dataclass(frozen=True)
class WholeModelTimes:
    """Measured times of a model that runs whole on one device."""

    total_s: float
    """Median of one run."""
    kernels: tuple[Kernel, ...] = ()
    """Empty without a kernel profiler."""
    session_overhead_s: float = 0.0
    """What a run in a session takes beyond that."""


@dataclass(frozen=True)
class BoundModel:
    """A model file, with what is fed to it."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    shapes: dict[str, int]


def measure_whole_plan(
    folder: Path, call_overheads_s: dict[str, float], predicted_s: float, weight_bytes: float
) -> WholeModelTimes:
    """Run a plan of one segment, and measure it and its kernels.

    Parameters
    ----------
    folder : Path
        A plan folder.
    call_overheads_s : dict
        See `plan_kernels`.
    predicted_s, weight_bytes : float
        A slower or larger model has more time.

    Raises
    ------
    EngineFailed
        When the engine cannot run the plan; as `ChildProcessFailed` when it crashed or exceeded a limit.
    """
    return call_isolated(_measure_plan, _limit_s(predicted_s, weight_bytes), folder, call_overheads_s)


def measure_whole_file(model: BoundModel, device: Device, predicted_s: float, weight_bytes: float) -> WholeModelTimes:
    """Run an unmodified model file, and measure its time; parameters and errors of `measure_whole_plan`."""
    return call_isolated(_measure_file, _limit_s(predicted_s, weight_bytes), model, device)


def measure_segments(plan: Plan, predicted_s: float) -> tuple[float, ...]:
    """Run a plan briefly, and return the median seconds of each segment; errors of `measure_whole_plan`."""
    weight_bytes = plan.weights.size_bytes if plan.weights is not None else 0
    return call_isolated(_time_segments, _limit_s(predicted_s, weight_bytes), Path(plan.folder))


def _limit_s(predicted_s: float, weight_bytes: float) -> float:
    return _TIME_LIMIT_S + _RUNS_IN_LIMIT * predicted_s + weight_bytes / _WEIGHT_BYTES_PER_S


def _measure_plan(folder: Path, call_overheads_s: dict[str, float]) -> WholeModelTimes:
    plan = Plan.load(folder)
    trial = run_trial(plan, plan_feeds(plan), duration_s=_DURATION_MIN_S, min_runs=_RUNS_MIN, max_runs=_RUNS_MAX)
    kernels = plan_kernels(plan, trial, call_overheads_s)
    return WholeModelTimes(sum(trial.segments_s), tuple(kernels), max(trial.session_overhead_s, 0.0))


def _measure_file(model: BoundModel, device: Device) -> WholeModelTimes:
    feeds = generate_feeds(onnx.load(model.path, load_external_data=False), model)
    with closing(load(model.path, device, LoadOptions(shapes=dict(model.shapes)))) as module:
        start_s = time.perf_counter()
        module.run(feeds)
        once_s = time.perf_counter() - start_s
        if once_s > PROFILED_TIME_MAX_S:
            return WholeModelTimes(once_s)
        timing = time_calls(
            lambda: module.run(feeds), duration_s=_DURATION_MIN_S, min_runs=_RUNS_MIN, max_runs=_RUNS_MAX
        )
        return WholeModelTimes(timing.median_s)


def _time_segments(folder: Path) -> tuple[float, ...]:
    plan = Plan.load(folder)
    return run_trial(plan, plan_feeds(plan), duration_s=_CUT_DURATION_S, max_runs=_PLAN_RUNS_MAX).segments_s
