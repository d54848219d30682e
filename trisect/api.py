"""The functions of `import trisect` and of the command line: devices, profiles and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from trisect.partitioner.costs.model_cases import model_cases
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.planning.measured_planning import SplitInterrupted
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.profiles import reference
from trisect.profiles.measuring.device_measurement import measure
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime import engines
from trisect.runtime.device import Device, select
from trisect.runtime.errors import InvalidInput
from trisect.runtime.files.atomic_folder import check_folder
from trisect.runtime.plans import plan_origins
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_folder import PLAN_FOLDER
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.external_data import model_files
from trisect.scheduler.problem.rules import Objective

from . import cluster_devices
from .device_data import store_measured, stored_or_none, stored_profile, with_device_data

BUDGET_MIN_S = 1.0

_plan_folders: list[ScratchFolder] = []
"""Removed when this process ends."""


def devices(
    wanted: str | Iterable[str] = "auto", *, machine: str | None = None, address: str | None = None
) -> list[Device]:
    """List the devices of this machine that the installed engines support.

    Parameters
    ----------
    wanted : str or iterable of str
        Ids and kinds (``"cpu:ort,npu"``), or ``"auto"`` for all.
    machine : str, optional
        List those of a reference machine instead of this one.
    address : str, optional
        List those of a Ray cluster instead: ``host:port``, or ``"auto"``. Their ids begin with the name of a node.

    Raises
    ------
    UnknownDevice
        With the nearest name and a list of all.
    EngineMissing
        For a device of an engine that is not installed, or whose driver is broken.
    ClusterFailed
        When the cluster cannot be reached.

    Examples
    --------
    >>> devices("cpu:ort")[0].kind
    'cpu'
    """
    if machine is not None:
        return select(wanted, reference.machine(machine).devices)
    return engines.find_devices(wanted) if address is None else cluster_devices.devices(address, wanted)


def usable_devices(wanted: str | Iterable[str] = "auto", *, machine: str | None = None) -> list[Device]:
    """List the devices that a split uses: as `devices`, but ``auto`` leaves out simulated and software devices.

    Raises
    ------
    UnknownDevice, EngineMissing
        As `devices`.
    """
    return engines.find_hardware(wanted) if machine is None else devices(wanted, machine=machine)


def known_profile(machine: str | None = None) -> Profile:
    """Return the published profile of a reference machine, or the measured one of this machine.

    Raises
    ------
    InvalidProfile, UnknownDevice
        As `stored_profile`; for an unknown reference machine.
    """
    return stored_profile() if machine is None else reference.machine(machine).profile


def profile(
    wanted: str | Iterable[str] = "auto",
    *,
    budget_s: float = 60.0,
    model: str | Path | None = None,
    shapes: Mapping[str, int] | None = None,
    address: str | None = None,
    must_store: bool = True,
    progress: Progress = no_progress,
) -> Profile:
    """Measure devices and the links between them, and store the profile for planning.

    Stored measurements of the same engine versions are reused. Measurements are stored when the user interrupts, too,
    and the next call continues from there.

    Parameters
    ----------
    wanted : str or iterable of str
        As for `devices`; ``"auto"`` leaves out simulated and software devices.
    budget_s : float
        Time after which no further measurement is started.
    model : path, optional
        An ONNX file whose operators, at their shapes, are measured first.
    shapes : mapping of str to int, optional
        Sizes of its symbolic dimensions.
    address : str, optional
        Measure the devices of a Ray cluster: each node measures and stores its own. Not with a model.
    must_store : bool
        False: a profile that cannot be stored serves this process.

    Raises
    ------
    InvalidProfile
        When the stored profile cannot be read; it is left as it is.
    StorageFailed
        When the profile must be stored and cannot be.
    EngineFailed
        When a device cannot run the smallest model.
    InvalidInput
        For a budget that is too small, or a model together with a cluster.
    ClusterFailed
        When the cluster cannot be reached.
    """
    if not budget_s >= BUDGET_MIN_S:
        raise InvalidInput(
            f"a budget of {budget_s:g} s is too small: expected {BUDGET_MIN_S:g} s or more", remedy="increase it"
        )
    if address is not None:
        if model is not None:
            raise InvalidInput("a cluster cannot be measured with a model's operators", remedy="leave the model out")
        with cluster_devices.connected(address):
            return cluster_devices.profile(cluster_devices.devices(address, wanted, real=True), budget_s, progress)
    chosen = engines.find_hardware(wanted)
    stored = partial(store_measured, store.update if must_store else store.update_if_possible, chosen)
    with model_cases(Graph.read(model, shapes)) if model is not None else nullcontext(()) as own:
        return stored(
            measure(
                chosen,
                budget_s=budget_s,
                known=stored_or_none(),
                model_cases=own,
                progress=progress,
                on_interrupt=stored,
            )
        )


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
    measure: bool = True,
    budget_s: float | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Place a model's nodes on devices, from measured costs, and cut it into segments that run.

    Devices without a profile are measured briefly first, and the profile is stored. The strategy ``auto`` then runs
    each device alone and the splits that are predicted to be fastest, and returns the plan that is measured to be
    fastest. The plan and its measurements are cached: the same request gives the same plan.

    Parameters
    ----------
    model : path
        An ONNX file.
    devices : str or iterable of str
        Ids and kinds, or ``"auto"`` for all hardware.
    strategy : str
        ``"auto"``, ``"opclass"``, ``"single:cpu:ort"``, or one that you registered.
    objective : {"latency", "throughput", "energy", "memory"}
        Objective to minimise.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions, by name or as ``input.axis``.
    constraints : Constraints, mapping or path of a TOML file, optional
        Which nodes must or must not run where; see `Constraints`.
    time_limit_s : float, optional
        Search time of strategies that search; a few seconds when left out.
    seed : int
        Random seed of stochastic strategies.
    out : path, optional
        Folder of the plan; when left out, a temporary one that is removed when this process ends.
    machine : str, optional
        Plan for a reference machine, from its published profile (`trisect.profiles.reference`), not for this one.
    address : str, optional
        Plan for the devices of a Ray cluster, ``host:port`` or ``"auto"``.
    refine : int
        Number of refinement iterations: run the plan, correct the costs by its measured segments, plan again. The
        fastest plan is returned; the measurements improve later predictions.
    measure : bool
        False: ``auto`` only predicts, as it does for machines that are not here and for energy and memory.
    budget_s : float, optional
        Time for planning and running the candidates of ``auto``; a few seconds when left out.
    verify : bool
        Run the plan once beside the whole model, in a child process, before it is written; see `Plan.verified`. Nodes
        that a device computes differently are placed elsewhere. The same segments are verified once.
    tolerance : float, optional
        Of the floats compared then; as for `trisect.verify`.
    progress : callable, optional
        Called while devices and the model are measured.

    Raises
    ------
    VerificationFailed
        When the plan computes something else than the model, and its nodes cannot be placed elsewhere.
    InvalidModel, UnsupportedModel, UnsupportedOperator
        For a model that cannot be read or run.
    InvalidInput
        For a symbolic dimension without a size, a constraint that matches nothing, or refinement of a plan that cannot
        run on this machine.
    UnknownDevice, InfeasibleProblem
        For unknown devices, or devices that cannot run the model.
    FallbackForbidden
        When only a CPU could run a node that it must not run.
    ProfileMissing
        For the energy of devices whose power is neither measured nor published.
    KeyboardInterrupt
        When the user interrupts; where a plan has run by then, the fastest is written first.
    """
    folder = Path(out) if out is not None else temporary_plan_folder()
    check_folder(folder, PLAN_FOLDER, model_files(Path(model)) if out is not None else ())
    with cluster_devices.connected(address):
        request = PlanRequest(
            Path(model), tuple(devices_to_plan_for(devices, machine, address)), strategy, objective, dict(shapes or {}),
            read_constraints(constraints), time_limit_s, seed, refine, measure, budget_s, machine or "", verify,
            tolerance,
        )  # fmt: skip
        report = progress or no_progress
        try:
            plan = with_device_data(request, lambda data: make_plan(request, data, folder, report), report)
        except SplitInterrupted as interruption:
            plan_origins.record(interruption.plan, request.model)
            raise
    plan_origins.record(plan, request.model)
    return plan


def devices_to_plan_for(wanted: str | Iterable[str], machine: str | None, address: str | None) -> list[Device]:
    """Return the devices of this machine, a reference machine or a cluster; ``"auto"`` leaves out non-hardware."""
    if machine is None and address is not None:
        return cluster_devices.devices(address, wanted, real=True)
    return usable_devices(wanted, machine=machine)


def temporary_plan_folder() -> Path:
    """Return a new folder that is removed when this process ends."""
    _plan_folders.append(ScratchFolder("plan"))
    return _plan_folders[-1].path / "plan"
