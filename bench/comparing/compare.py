"""Compare all strategies and peers on one model, measured in the same run.

Predictions, the lower bound of any placement, and the difference from the unsplit model's outputs are reported beside
the measurements.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from trisect import api, device_data
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.measuring.power import can_measure_power
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InfeasibleProblem, InvalidInput, PowerUnknown
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.tensors.feed_checks import check_feeds
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.tensors.tensor_spec import Arrays
from trisect.scheduler.problem.rules import Objective

from . import turn_cache
from .candidates import parse_strategies, peer_candidates, plan_candidates
from .comparison import Comparison, results_of
from .contender_process import ContenderProcess
from .interleaved_measurement import ContenderMeasurements, MeasurementOptions, measure
from .output_comparison import value_bytes, write_tensors

_BUDGET_MIN_S = 1.0
_PROFILE_SHARE = 0.3
"""Share of the budget for measuring the model's own operators first, where they are not measured yet."""


@dataclass(frozen=True)
class ComparisonRequest:
    """What to compare, and how."""

    model: str | Path
    """An ONNX file."""
    strategies: str | Sequence[str] = "all"
    """``"all"``, or names."""
    devices: str | Sequence[str] = "auto"
    """As for `trisect.split`."""
    objective: Objective = "latency"
    """Objective that strategies minimise, and that results are sorted by."""
    shapes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of symbolic dimensions."""
    feeds: Arrays | None = None
    """Every input; random ones, drawn with the seed, if None."""
    budget_s: float = 60.0
    """For the turns. Planning takes its own time, and so does measuring the model's operators for the first time."""
    threads: int | None = None
    """Computing threads of every engine; None for the engine's default."""
    seed: int = 0
    peers: bool = True
    """Whether to measure other systems."""
    fresh: bool = False
    """Whether to ignore cached measurements of earlier runs."""


def compare(request: ComparisonRequest, progress: Progress = no_progress) -> Comparison:
    """Measure the plans of strategies on a model, beside other systems.

    Parameters
    ----------
    request : ComparisonRequest
    progress : callable, optional
        Called with the steps done, all steps, and what comes next.

    Raises
    ------
    InvalidModel, UnsupportedModel, InvalidInput
        For a model that cannot be read, shapes or feeds that do not fit, or a budget too small.
    UnknownDevice, UnknownStrategy
    ProfileMissing
        Where something about the devices is unknown and could not be measured.
    PowerUnknown
        For energy, with devices whose power cannot be measured here.
    InfeasibleProblem
        Where no strategy returns a plan; the message has each one's reason.
    """
    budget_s, threads = request.budget_s, request.threads
    if not budget_s >= _BUDGET_MIN_S:
        raise InvalidInput(f"a budget of {budget_s:g} s is too small", remedy=f"give {_BUDGET_MIN_S:g} s or more")
    path = Path(request.model)
    devices = api.usable_devices(request.devices)
    strategies = parse_strategies(request.strategies, devices)
    graph = Graph.read(path, request.shapes)
    if request.objective == "energy":
        _check_power(devices)
    with ScratchFolder("bench") as name:
        folder = Path(name)
        api.profile(
            [device.id for device in devices],
            budget_s=min(device_data.BRIEF_BUDGET_S, max(api.BUDGET_MIN_S, _PROFILE_SHARE * budget_s)),
            model=path, shapes=request.shapes, must_store=False, progress=progress,
        )  # fmt: skip
        planned = plan_candidates(
            path, devices, strategies, request.objective, dict(request.shapes), request.seed, folder, progress
        )
        plan = next((c.plan for c in planned if c.plan is not None), None)
        if plan is None:
            reasons = {c.failed: c.name for c in reversed(planned)}
            listed = "; ".join(f"{name}: {failed}" for failed, name in reversed(reasons.items()))
            raise InfeasibleProblem(f"no strategy returns a plan of {path.name}: {listed}")
        candidates = [*planned, *(peer_candidates(path, devices) if request.peers else [])]
        feeds = _feeds(path, plan, request.feeds, request.seed)
        write_tensors(folder / "feeds.pb", feeds)
        key = {
            "model": graph.sha256,
            "shapes": dict(graph.shapes),
            "devices": [(d.id, d.name, d.engine_version) for d in devices],
            "threads": threads,
            "feeds": hashlib.sha256(value_bytes(feeds)).hexdigest(),
            "version": version("trisect"),
        }
        cache = turn_cache.cache_path(key)
        earlier = None if request.fresh else turn_cache.read_turns(cache)
        date = earlier.date if earlier is not None else datetime.now(UTC).isoformat(timespec="seconds")
        known = dict(earlier.contenders) if earlier is not None else {}

        def save(measured: Mapping[str, ContenderMeasurements]) -> None:
            turn_cache.write_turns(cache, turn_cache.CachedTurns(date, known | dict(measured)))

        contenders = [c.contender for c in candidates if c.contender is not None]
        options = MeasurementOptions(
            request.objective, folder / "feeds.pb", _reference(path, folder, threads, graph.shapes), graph.shapes,
            threads, budget_s,
        )  # fmt: skip
        measurement = measure(contenders, options, known=known, save=save, progress=progress)
    return Comparison(
        model=os.fsencode(path.name).decode(errors="replace"),
        path=str(path.resolve()),
        model_sha256=graph.sha256,
        shapes=dict(graph.shapes),
        objective=request.objective,
        threads=threads,
        seed=request.seed,
        devices=tuple(devices),
        results=results_of(candidates, measurement, devices, request.objective),
        date=date,
        rounds=measurement.rounds,
        elapsed_s=measurement.elapsed_s,
        resumed=any(contender.key in known for contender in contenders),
        interrupted=measurement.interrupted,
        noise=measurement.noise,
        versions={"trisect": version("trisect")} | {d.engine: d.engine_version for d in devices},
    )


def _check_power(devices: Sequence[Device]) -> None:
    """Refuse devices of unknown power, as planning would after seconds of measuring."""
    profiled = {key for key, profile in device_data.stored_profile().devices.items() if profile.power_w is not None}
    known = [device.id for device in devices if device.id in profiled or can_measure_power(device)]
    if unknown := [device.id for device in devices if device.id not in known]:
        raise PowerUnknown(
            f"the power of {', '.join(unknown)} is not measured, and no counter of it can be read here",
            remedy="choose another objective, or only devices whose power is known "
            f"({', '.join(known) or 'none of these'})",
        )


def _feeds(path: Path, plan: Plan, feeds: Arrays | None, seed: int) -> dict[str, Any]:
    """Return the inputs in the form that every system takes: containers as Python's own."""
    if feeds is not None:
        arrays = check_feeds(plan.inputs, feeds, fixed=plan.fixed_inputs)
    else:
        arrays = generate_feeds(
            onnx.load(path, load_external_data=False), plan, seed, narrow=plan.assumes_narrow_numbers
        )
    return {spec.name: unpack(spec.dtype, arrays[spec.name]) for spec in plan.inputs}


def _reference(path: Path, folder: Path, threads: int | None, shapes: Mapping[str, int]) -> Path | None:
    """Save the unsplit model's outputs; None where ONNX Runtime cannot run it."""
    outputs = folder / "reference.pb"
    with ContenderProcess("ort_alone", "the reference") as process:
        try:
            process.load(path, folder / "feeds.pb", threads=threads, shapes=shapes, settings={})
            process.save_outputs(outputs)
        except EngineFailed:
            return None
    return outputs
