"""``trisect.pareto``: Pareto-optimal placements of a model, or a problem, for two objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trisect.partitioner.planning.pareto_front import check_objectives, pareto_front
from trisect.partitioner.planning.plan_maker import check_pareto_folder, make_pareto_plans
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.partitioner.strategies import TIME_LIMIT_S
from trisect.runtime.plans import plan_origins
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.external_data import model_files
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.search_time_limit import check_time_limit
from trisect.scheduler.problem.solution import Solution

from . import api, cluster_devices, device_data


def pareto(
    model: str | Path | Problem,
    objectives: tuple[Objective, Objective] = ("latency", "energy"),
    devices: str | Iterable[str] = "auto",
    shapes: Mapping[str, int] | None = None,
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    time_limit_s: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    machine: str | None = None,
    address: str | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> list[Solution]:
    """Return Pareto-optimal placements for two objectives.

    Parameters
    ----------
    model : path or Problem
        An ONNX file, or a problem of a model; devices, shapes, `out`, `machine` and `address` apply to a file only.
    devices, shapes, constraints, time_limit_s, seed, machine, address, verify, tolerance, progress
        As of `trisect.split`.
    out : path, optional
        Folder that gets a plan of each placement: ``00``, ``01``, ... in the order of the list.

    Returns
    -------
    list of Solution
        The best in the first objective first; `values` has both. With `out`, `intervals` has those of the plans.

    Raises
    ------
    TrisectError
        As `trisect.split`.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> pair = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 3.0, "gpu:y": 1.0} for task in "ab"}
    >>> platform = Platform(power_w={"cpu:x": 10.0, "gpu:y": 100.0})
    >>> problem = Problem.of(nx.DiGraph([("a", "b")]), pair, times, platform)
    >>> [round(solution.values["energy"]) for solution in pareto(problem)]
    [200, 130, 60]
    """
    check_time_limit(time_limit_s)
    check_objectives(objectives)
    read = read_constraints(constraints)
    if isinstance(model, Problem):
        return pareto_front(constrained(model, read), objectives, time_limit_s=time_limit_s or TIME_LIMIT_S, seed=seed)
    folder, report = Path(out) if out is not None else None, progress or no_progress
    if folder is not None:
        check_pareto_folder(folder, model_files(Path(model)))
    with cluster_devices.connected(address):
        request = PlanRequest(
            Path(model), tuple(api.devices_to_plan_for(devices, machine, address)), shapes=dict(shapes or {}),
            constraints=read, time_limit_s=time_limit_s, seed=seed, machine=machine or "", verify=verify,
            tolerance=tolerance,
        )  # fmt: skip
        front, plans = device_data.with_device_data(
            request, lambda data: make_pareto_plans(request, data, objectives, folder, report), report
        )
    for plan in plans[:1]:
        plan_origins.record(plan, request.model)
    return list(map(_as_planned, front, plans)) if plans else front


def _as_planned(solution: Solution, plan: Plan) -> Solution:
    """Return a solution with what its plan predicts of the first objective, and of the latency."""
    known = {"latency": (plan.predicted.latency_s, plan.predicted.latency_interval_s)}
    known[plan.objective] = (plan.value, plan.interval)
    values = {name: known[name][0] if name in known else value for name, value in solution.values.items()}
    intervals = {name: known[name][1] for name in values if name in known}
    return replace(
        solution,
        value=plan.value,
        bound=plan.bound,
        values=values,
        intervals={name: ends for name, ends in intervals.items() if ends is not None},
    )
