"""Two objectives at once: solutions, and plans, of which none is better in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trisect.partitioner.planning.pareto_front import pareto_front
from trisect.partitioner.planning.plan_maker import write_plan
from trisect.partitioner.planning.preparation import Prepared, prepare
from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.partitioner.strategies import TIME_LIMIT_S
from trisect.profiles import reference
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.op_features import Costs
from trisect.runtime import engines
from trisect.runtime.device import select
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal, Solution

from . import api
from . import plan_origins as origins


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
    progress: Progress = no_progress,
) -> list[Solution]:
    """Placements of which none is better than another in both objectives.

    Parameters
    ----------
    model : path or Problem
        An ONNX file, or a problem as models make them; devices, shapes, `out` and `machine` are for a file.
    objectives : pair of {"latency", "throughput", "energy", "memory"}
    devices, shapes, constraints, time_limit_s, seed, machine, progress
        As of `trisect.split`.
    out : path, optional
        Folder that gets a plan for each: ``00``, ``01``, ... in the order of the list.

    Returns
    -------
    list of Solution
        The best in the first objective first; `values` has both.

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
    api.check_time_limit(time_limit_s)
    limit_s = time_limit_s or TIME_LIMIT_S
    if isinstance(model, Problem):
        narrow = constrained(model, read_constraints(constraints))
        return pareto_front(narrow, objectives, time_limit_s=limit_s, seed=seed)
    path = Path(model)
    published = reference.machine(machine) if machine is not None else None
    chosen = engines.find_hardware(devices) if published is None else select(devices, published.devices)
    capabilities = Capabilities()

    def known(costs: Costs, power_w: Mapping[str, float]) -> tuple[Prepared, Problem]:
        prepared = prepare(
            path, chosen, costs, objectives[0], shapes, constraints=constraints, power_w=power_w,
            capabilities=capabilities, progress=progress,
        )  # fmt: skip
        return prepared, prepared.problem()

    prepared, problem = api.with_costs(chosen, published, known, progress)
    front = pareto_front(problem, objectives, time_limit_s=limit_s, seed=seed)
    for number, solution in enumerate(front if out is not None else ()):
        plan = write_plan(
            prepared, problem, Proposal(solution.placement), Path(out or "") / f"{number:02d}", strategy="pareto",
            seed=seed, time_limit_s=time_limit_s, machine=machine or "", capabilities=capabilities,
        )  # fmt: skip
        origins.remember(plan, path)
    return front
