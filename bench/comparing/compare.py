"""One model, every strategy and every peer, measured in the same run: which split wins here, and by how much.

What was predicted, what no placement can beat, and how far the answers are from the unsplit model's stand beside what
was measured.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from trisect import api
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.measuring.power import can_tell_power
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InfeasibleProblem, InvalidInput, PowerUnknown
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.tensors.tensor_spec import Arrays
from trisect.runtime.tensors.tensors import check_feeds
from trisect.scheduler.problem.rules import Objective

from . import turn_cache as kept
from .candidates import peer_candidates, plan_candidates, wanted_strategies
from .comparison import Comparison, results_of
from .contender_process import Contending
from .interleaved_measurement import Measured, measure
from .output_comparison import write_tensors

_LEAST_BUDGET_S = 1.0
_PROFILE_SHARE = 0.3
"""Of the budget, for measuring this model's own operators first where nobody has: what predictions are made from."""


def compare(
    model: str | Path,
    strategies: str | Sequence[str] = "all",
    devices: str | Sequence[str] = "auto",
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    *,
    feeds: Arrays | None = None,
    budget_s: float = 60.0,
    threads: int | None = None,
    seed: int = 0,
    peers: bool = True,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> Comparison:
    """Measure what strategies make of a model, beside other systems.

    Parameters
    ----------
    model : path
        An ONNX file.
    strategies : str or sequence of str
        ``"all"``, or names.
    devices : str or sequence of str
        As for `trisect.split`.
    objective : {"latency", "throughput", "energy", "memory"}
        What strategies make small, and what results are sorted by.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions.
    feeds : mapping of str to array, optional
        Every input; drawn from the seed when left out.
    budget_s : float
        For the turns. Planning takes its own time, and so does, the first time, measuring the model's operators.
    threads : int, optional
        Computing threads of every engine.
    seed : int
    peers : bool
        Whether to measure other systems.
    fresh : bool
        Whether to forget what an earlier run of the same measured.
    progress : callable, optional
        Called with the steps done, all steps, and what comes next.

    Raises
    ------
    InvalidModel, UnsupportedModel, InvalidInput
        For a model that cannot be read, shapes or feeds that do not fit, or a budget too small.
    UnknownDevice, UnknownStrategy
    ProfileMissing
        Where something about the devices is not known and could not be measured.
    PowerUnknown
        For energy, with devices whose power nothing tells here.
    InfeasibleProblem
        Where no strategy gives a plan; what each said is in the message.
    """
    if not budget_s >= _LEAST_BUDGET_S:
        raise InvalidInput(f"a budget of {budget_s:g} s is too small", remedy=f"give {_LEAST_BUDGET_S:g} s or more")
    path = Path(model)
    chosen = api.usable_devices(devices)
    wanted = wanted_strategies(strategies, chosen)
    graph = Graph.read(path, shapes)
    if objective == "energy":
        _check_power(chosen)
    with tempfile.TemporaryDirectory(prefix="trisect-bench-") as name:
        folder = Path(name)
        api.profile(
            [device.id for device in chosen],
            budget_s=min(api.BRIEF_S, max(api.LEAST_BUDGET_S, _PROFILE_SHARE * budget_s)),
            model=path, shapes=shapes, progress=progress,
        )  # fmt: skip
        planned = plan_candidates(path, chosen, wanted, objective, dict(shapes or {}), seed, folder, progress)
        plan = next((c.plan for c in planned if c.plan is not None), None)
        if plan is None:
            reasons = {c.failed: c.name for c in reversed(planned)}
            said = "; ".join(f"{name}: {failed}" for failed, name in reversed(reasons.items()))
            raise InfeasibleProblem(f"no strategy gives a plan of {path.name}: {said}")
        candidates = [*planned, *(peer_candidates(path, chosen) if peers else [])]
        given = _feeds(path, plan, feeds, seed)
        write_tensors(folder / "feeds.pb", given)
        question = {
            "model": graph.sha256,
            "shapes": dict(graph.shapes),
            "devices": [(d.id, d.name, d.engine_version) for d in chosen],
            "threads": threads,
            "feeds": _fingerprint(given),
            "version": version("trisect"),
        }
        store = kept.path_for(question)
        earlier = None if fresh else kept.read(store)
        date = earlier.date if earlier is not None else datetime.now(UTC).isoformat(timespec="seconds")
        known = dict(earlier.entrants) if earlier is not None else {}

        def keep(found: Mapping[str, Measured]) -> None:
            kept.write(store, kept.Kept(date, known | dict(found)))

        entrants = [c.entrant for c in candidates if c.entrant is not None]
        measurement = measure(
            entrants,
            objective=objective,
            feeds=folder / "feeds.pb",
            reference=_reference(path, folder, threads, graph.shapes),
            shapes=graph.shapes,
            threads=threads,
            budget_s=budget_s,
            known=known,
            keep=keep,
            progress=progress,
        )
    return Comparison(
        model=path.name,
        path=str(path.resolve()),
        model_sha256=graph.sha256,
        shapes=dict(graph.shapes),
        objective=objective,
        threads=threads,
        seed=seed,
        devices=tuple(chosen),
        results=results_of(candidates, measurement, chosen, objective),
        date=date,
        rounds=measurement.rounds,
        elapsed_s=measurement.elapsed_s,
        resumed=any(entrant.key in known for entrant in entrants),
        interrupted=measurement.interrupted,
        noise=measurement.noise,
        versions={"trisect": version("trisect")} | {d.engine: d.engine_version for d in chosen},
    )


def _check_power(devices: Sequence[Device]) -> None:
    """As planning would find out, but only after seconds of measuring."""
    known = {key for key, profile in api.stored_profile().devices.items() if profile.power_w is not None}
    told = [device.id for device in devices if device.id in known or can_tell_power(device)]
    if unknown := [device.id for device in devices if device.id not in told]:
        raise PowerUnknown(
            f"the power of {', '.join(unknown)} is not measured, and no counter of it can be read here",
            remedy="choose another objective, or only devices whose power is known "
            f"({', '.join(told) or 'none of these'})",
        )


def _feeds(path: Path, plan: Plan, feeds: Arrays | None, seed: int) -> dict[str, np.ndarray]:
    if feeds is not None:
        return check_feeds(plan.inputs, feeds)
    return generate_feeds(onnx.load(path, load_external_data=False), plan, seed)


def _reference(path: Path, folder: Path, threads: int | None, shapes: Mapping[str, int]) -> Path | None:
    """The unsplit model's answers; None where ONNX Runtime cannot run it."""
    answers = folder / "reference.pb"
    with Contending("ort_alone", "the reference") as worker:
        try:
            worker.load(path, folder / "feeds.pb", threads=threads, shapes=dict(shapes), settings={})
            worker.ask({"do": "answer", "to": str(answers)})
        except EngineFailed:
            return None
    return answers


def _fingerprint(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update("\0".join(map(str, array.ravel())).encode() if array.dtype.kind == "O" else array.tobytes())
    return digest.hexdigest()
