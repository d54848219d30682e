"""What one sentence of a user means in calls to the rooms: thin orchestration, no idea of its own.

`import trisect` and the command line are both made of these functions.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from trisect.llm.bundle import Bundle
from trisect.partitioner.costs.model_cases import model_cases
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.problem.constraints import Constraints
from trisect.profiles import reference
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.measuring.device_measurement import measure
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import Profile, Provenance
from trisect.runtime import engines
from trisect.runtime.device import Device, select
from trisect.runtime.errors import InvalidInput, PowerUnknown, ProfileMissing
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.rules import Objective

from . import cluster_devices as clusters
from . import plan_origins as origins
from .measured_runs import Run as Run
from .measured_runs import run as run
from .measured_runs import verify as verify
from .network_fitting import costs_of, learn_segments

LEAST_BUDGET_S = 1.0
BRIEF_S = 20.0
"""How long a split may measure devices that nobody has measured yet."""

_T = TypeVar("_T")
_NOTHING_MEASURED = Profile(Provenance("measured", "", "", "", "", {}, None), "float32", {}, ())


def devices(
    wanted: str | Iterable[str] = "auto", *, machine: str | None = None, address: str | None = None
) -> list[Device]:
    """Devices of this machine, as the engines installed here list them.

    Parameters
    ----------
    wanted : str or iterable of str
        Ids and kinds (``"cpu:ort,npu"``), or ``"auto"`` for all.
    machine : str, optional
        Those of a published machine that is not at hand, not of this one.
    address : str, optional
        Those of a Ray cluster: ``host:port``, or ``"auto"``. Their ids begin with the name of a node.

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.
    EngineMissing
        For a device of an engine that is not installed, or whose driver is broken.
    ClusterFailed
        Where the cluster cannot be reached.

    Examples
    --------
    >>> devices("cpu:ort")[0].kind
    'cpu'
    """
    if machine is not None:
        return select(wanted, reference.machine(machine).devices)
    return engines.find_devices(wanted) if address is None else clusters.devices(address, wanted)


def usable_devices(wanted: str | Iterable[str] = "auto", *, machine: str | None = None) -> list[Device]:
    """As `devices`, but ``auto`` leaves out what is no hardware, as a split does; of a published machine all.

    Raises
    ------
    UnknownDevice, EngineMissing
        As `devices`.
    """
    return engines.find_hardware(wanted) if machine is None else devices(wanted, machine=machine)


def known_profile(machine: str | None = None) -> Profile:
    """What is published of a machine, or else what was measured on this one so far; empty where nothing was.

    Raises
    ------
    InvalidProfile, UnknownDevice
        As `stored_profile`; for a machine that nobody published.
    """
    return stored_profile() if machine is None else reference.machine(machine).profile


def stored_profile() -> Profile:
    """What was measured on this machine so far; an empty profile where nothing was.

    Raises
    ------
    InvalidProfile
        When what is stored cannot be read.
    """
    return _stored() or _NOTHING_MEASURED


def profile(
    wanted: str | Iterable[str] = "auto",
    *,
    budget_s: float = 60.0,
    model: str | Path | None = None,
    shapes: Mapping[str, int] | None = None,
    address: str | None = None,
    progress: Progress = no_progress,
) -> Profile:
    """Measure devices and the links between them, and store what was found for planning.

    Figures that are stored already, of the same versions of the same engines, are kept and not measured again. What is
    measured when the user interrupts is stored too, and the next call goes on from there.

    Parameters
    ----------
    wanted : str or iterable of str
        As for `devices`; ``"auto"`` leaves out simulated and software devices.
    budget_s : float
        After so long nothing more is begun.
    model : path, optional
        An ONNX file whose own operators, at its own shapes, are measured first.
    shapes : mapping of str to int, optional
        Sizes of its symbolic dimensions.
    address : str, optional
        Of a Ray cluster: each node measures its own devices, and keeps the figures. Not with a model.
    progress : callable, optional

    Raises
    ------
    InvalidProfile
        When what is stored cannot be read; it is left as it is.
    EngineFailed
        For a device that cannot run the smallest model.
    InvalidInput
        For a budget too small to measure anything.
    ClusterFailed
        Where the cluster cannot be reached.
    """
    if not budget_s >= LEAST_BUDGET_S:
        message = f"a budget of {budget_s:g} s is too small to measure anything"
        raise InvalidInput(message, remedy=f"give {LEAST_BUDGET_S:g} s or more")
    if address is not None:
        if model is not None:
            raise InvalidInput("a cluster is not measured with one model's operators", remedy="leave the model out")
        with clusters.reached(address):
            return clusters.profile(clusters.devices(address, wanted, real=True), budget_s, progress)
    chosen = engines.find_hardware(wanted)
    with model_cases(Graph.read(model, shapes)) if model is not None else nullcontext(()) as own:
        measured = measure(chosen, budget_s=budget_s, known=_stored(), wanted=own, progress=progress, keep=_store)
    _store(measured)
    return measured


def split(
    model: str | Path,
    devices: str | Iterable[str] = "auto",
    strategy: str = "auto",
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    time_limit_s: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    machine: str | None = None,
    address: str | None = None,
    refine: int = 0,
    progress: Progress = no_progress,
) -> Plan:
    """Place a model's nodes on devices, from measured costs, and cut it into segments that run.

    Devices that nobody has measured yet are measured briefly first, and the figures stored.

    Parameters
    ----------
    model : path
        An ONNX file.
    devices : str or iterable of str
        Ids and kinds, or ``"auto"`` for all that are hardware.
    strategy : str
        ``"auto"``, ``"opclass"``, ``"single:cpu:ort"``, or one that you registered.
    objective : {"latency", "throughput", "energy", "memory"}
        What to make small.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions, by name or as ``input.axis``.
    constraints : Constraints, mapping or path of a TOML file, optional
        What must or must not go where; see `trisect.partitioner.problem.constraints`.
    time_limit_s : float, optional
        How long a strategy that searches may take; of `auto`, a few seconds when left out.
    seed : int
        For strategies that draw lots.
    out : path, optional
        Folder of the plan; when left out, one that vanishes with this process (`Plan.save` keeps it).
    machine : str, optional
        Plan for a machine that is not at hand, from published figures (`trisect.profiles.reference`), not for this one.
    address : str, optional
        Plan for the devices of a Ray cluster, ``host:port`` or ``"auto"``; each node measures its own.
    refine : int
        How often to run the plan, correct the costs by what its own segments took, and plan anew. The quickest plan is
        kept; what was measured makes later predictions better.
    progress : callable, optional
        Told of measuring.

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator
        For a model that cannot be read or run.
    InvalidInput
        For a symbolic dimension without a size, a constraint that matches nothing, or refining where nothing can run.
    UnknownDevice, InfeasibleProblem
        For devices that are not here, or that cannot do it.
    FallbackForbidden
        Where only a CPU could run something that it must not.
    ProfileMissing
        For the energy of devices whose power nobody measured or published.
    """
    path = Path(model)
    check_time_limit(time_limit_s)
    published = reference.machine(machine) if machine is not None else None
    folder = Path(out) if out is not None else vanishing_folder()
    with clusters.reached(address):
        if published is not None:
            chosen = select(devices, published.devices)
        elif address is not None:
            chosen = clusters.devices(address, devices, real=True)
        else:
            chosen = engines.find_hardware(devices)
        plan = with_costs(
            chosen,
            published,
            lambda costs, power_w: make_plan(
                path, chosen, costs, strategy, objective, dict(shapes or {}), seed, folder,
                constraints=constraints, time_limit_s=time_limit_s, power_w=power_w, machine=machine or "",
                calibrations=store.calibrations_path(), capabilities=clusters.capabilities(chosen),
                refine=refine, keep=partial(learn_segments, chosen), progress=progress,
            ),
            progress,
        )  # fmt: skip
    origins.remember(plan, path)
    return plan


def check_time_limit(time_limit_s: float | None) -> None:
    """Refuse a time limit that is none.

    Raises
    ------
    InvalidInput
    """
    if time_limit_s is not None and not (isfinite(time_limit_s) and time_limit_s > 0):
        raise InvalidInput(f"a time limit of {time_limit_s} s", remedy="give seconds above zero")


def with_costs(
    chosen: Sequence[Device],
    published: reference.Machine | None,
    use: Callable[[ProfileCosts, Mapping[str, float]], _T],
    progress: Progress = no_progress,
) -> _T:
    """Call something with what devices cost and draw: published, stored, or else measured briefly first."""

    def called(known: Profile) -> _T:
        power_w = {key: d.power_w for key, d in known.devices.items() if d.power_w is not None}
        return use(costs_of(known, chosen), power_w)

    if published is not None:
        return called(published.profile)
    try:
        return called(_still_valid(stored_profile(), chosen))
    except PowerUnknown:
        raise
    except ProfileMissing:
        if clusters.is_of_cluster(chosen):
            return called(clusters.profile(chosen, BRIEF_S, progress))
        # Only now: a model that cannot be read must not cost the user the time of measuring.
        return called(profile([device.id for device in chosen], budget_s=BRIEF_S, progress=progress))


def import_model(model: str | Path, out: str | Path | None = None, *, progress: Progress = no_progress) -> Bundle:
    """Import a language model: its graphs, weights, tokenizer and chat template, as one folder that trisect runs.

    Parameters
    ----------
    model : str or path
        A GGUF file, a folder as ONNX Runtime GenAI or Optimum writes it, or a Hugging Face id.
    out : path, optional
        Folder to write; the user's cache when left out.
    progress : callable, optional
        Called with the steps done, all steps, and what is being done.

    Raises
    ------
    InvalidModel, UnsupportedModel
        Where there is no such model, or it cannot be read.
    StorageFailed
        Where the disk is full or refuses; nothing half-written is left.
    """
    from trisect.llm.importing.model_import import open_model

    return open_model(model, folder=Path(out) if out is not None else None, progress=progress)


def _store(measured: Profile) -> None:
    store.save(measured, store.default_path(measured.precision))


def _stored() -> Profile | None:
    return store.load_own(store.default_path())


def _still_valid(stored: Profile, chosen: Sequence[Device]) -> Profile:
    """The profile without devices whose engine has changed since."""
    now = {device.id: (device.name, device.engine_version) for device in chosen}
    devices = {key: d for key, d in stored.devices.items() if now.get(key) == (d.name, d.engine_version)}
    return replace(stored, devices=devices)


def vanishing_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="trisect-plan-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "plan"
