"""``trisect.replan``: plan a model again when devices are gone, with the options that its plan records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.partitioner.problem.constraints import read_constraints
from trisect.partitioner.strategies import UnknownStrategy, lookup
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice
from trisect.runtime.files.atomic_folder import check_folder
from trisect.runtime.plans import plan_origins
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_folder import PLAN_FOLDER
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.external_data import model_files

from . import api, device_data


def replan(
    plan: Plan,
    without: Collection[str],
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan a model again for the remaining devices, with the same objective, constraints, shapes and seed.

    ``auto`` replaces a strategy that names a lost device, or that is not registered in this process. Constraints that
    keep nodes off a lost device are satisfied; nodes that are forced onto one make the problem infeasible.

    Parameters
    ----------
    without : collection of str
        Ids of devices that are gone.
    model : path, optional
        The whole model; when left out, the file that was split on this machine.
    out : path, optional
        Folder of the new plan; when left out, a temporary one that is removed when this process ends.

    Raises
    ------
    UnknownDevice
        For an id that is not among the plan's devices.
    InfeasibleProblem
        When no device is left, or the remaining ones cannot run the model.
    InvalidInput
        When the model cannot be found, or has changed.
    """
    ids = [device.id for device in plan.devices]
    for device in without:
        if device not in ids:
            raise UnknownDevice(f"no device {device!r} in this plan", remedy=f"choose from {', '.join(ids)}")
    left = tuple(device for device in plan.devices if device.id not in without)
    if not left:
        raise InfeasibleProblem(f"without {', '.join(without)} this plan has no device left", remedy="add one")
    path = Path(model) if model is not None else plan_origins.find_model(plan)
    plan_origins.check_model(plan, path)
    request = PlanRequest(
        path, left, _strategy(plan, without), plan.objective, plan.shapes,  # type: ignore[arg-type]
        read_constraints(plan.constraints),
        plan.time_limit_s, plan.seed, machine=plan.machine, verify=True,
        absent=tuple(device for device in plan.devices if device.id in without),
    )  # fmt: skip
    folder = Path(out) if out is not None else api.temporary_plan_folder()
    check_folder(folder, PLAN_FOLDER, model_files(path) if out is not None else ())
    report = progress or no_progress
    # A session may be computing meanwhile: that says nothing of how fast the devices are.
    new = device_data.with_device_data(
        request, lambda data: make_plan(request, data, folder, report), report, probe=False
    )
    plan_origins.record(new, path)
    return replace(new, notes=(*new.notes, f"replanned without {', '.join(without)}"))


def _strategy(plan: Plan, without: Collection[str]) -> str:
    try:
        lookup(plan.strategy)
    except UnknownStrategy:
        return "auto"
    return "auto" if any(device in plan.strategy for device in without) else plan.strategy
