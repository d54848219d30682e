"""The same model planned again when a device is gone: with what the first plan remembers of how it was made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.strategies import UnknownStrategy, lookup
from trisect.profiles import reference
from trisect.profiles.stored import profile_store as store
from trisect.runtime.errors import InfeasibleProblem, UnknownDevice
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress

from . import api
from . import cluster_devices as clusters
from . import plan_origins as origins


def replan(
    plan: Plan,
    without: Collection[str],
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Plan a model anew for the devices that are left, with the same objective, constraints, shapes and seed.

    A strategy that was told of a lost device, or that nobody here knows, gives way to ``auto``. Constraints that keep
    work off a lost device hold by themselves; work that is forced onto one makes the problem infeasible.

    Parameters
    ----------
    plan : Plan
    without : collection of str
        Ids of devices that are gone.
    model : path, optional
        The whole model; when left out, the file that was split on this machine.
    out : path, optional
        Folder of the new plan; when left out, one that vanishes with this process.
    progress : callable, optional

    Raises
    ------
    UnknownDevice
        For an id that is not among the plan's devices.
    InfeasibleProblem
        When no device is left, or those left cannot do it.
    InvalidInput
        When the model cannot be found, or is another one.
    """
    ids = [device.id for device in plan.devices]
    for device in without:
        if device not in ids:
            raise UnknownDevice(f"no device {device!r} in this plan", remedy=f"there are: {', '.join(ids)}")
    left = [device for device in plan.devices if device.id not in without]
    if not left:
        raise InfeasibleProblem(f"without {', '.join(without)} this plan has no device left", remedy="add one")
    path = Path(model) if model is not None else origins.find(plan)
    origins.check(plan, path)
    strategy = plan.strategy
    try:
        lookup(strategy)
    except UnknownStrategy:
        strategy = "auto"
    if any(device in strategy for device in without):
        strategy = "auto"
    made = api.with_costs(
        left,
        reference.machine(plan.machine) if plan.machine else None,
        lambda costs, power_w: make_plan(
            path, left, costs, strategy, plan.objective, plan.shapes, plan.seed,  # type: ignore[arg-type]
            Path(out) if out is not None else api.vanishing_folder(),
            constraints=plan.constraints, time_limit_s=plan.time_limit_s, power_w=power_w, machine=plan.machine,
            absent=[device for device in plan.devices if device.id in without],
            calibrations=store.calibrations_path(), capabilities=clusters.capabilities(left), progress=progress,
        ),
        progress,
    )  # fmt: skip
    origins.remember(made, path)
    return replace(made, notes=(*made.notes, f"planned anew without {', '.join(without)}"))
