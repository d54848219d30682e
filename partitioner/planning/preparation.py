"""A model read, and all that a planner should know of it and of the devices before anything is placed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.op_features import Costs
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.task_graph import TaskGraph

from ..costs.calibration import calibrate
from ..graph.model_graph import Graph, used_values
from ..problem.constrained_problem import constrained
from ..problem.constraints import Constraints, read_constraints
from ..problem.device_support import refusals
from ..problem.problem_builder import make_problem, regrouped, task_graph


@dataclass(frozen=True)
class Prepared:
    """A model read, and all that is known of it and of the devices before anything is placed."""

    graph: Graph
    tasks: TaskGraph
    devices: tuple[Device, ...]
    costs: Costs
    objective: Objective
    constraints: Constraints
    refused: Mapping[tuple[str, str], str]
    """Task and device id -> why it cannot run there."""
    power_w: Mapping[str, float]
    weights_bytes: Mapping[str, float]
    """Of each task: its constants, those shared with others too."""
    nodes_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Device id -> node -> seconds, where the model was looked at while it ran."""
    absent: tuple[Device, ...] = ()
    """Devices that constraints may name though they are gone."""
    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Task and device id -> how much longer it takes in a plan that ran than `costs` say; 1 where left out."""

    def problem(self) -> Problem:
        """What a strategy is asked.

        Raises
        ------
        TrisectError
            As `make_plan`.
        """
        problem = make_problem(
            self.graph, self.devices, self.costs, objective=self.objective, tasks=self.tasks, refused=self.refused,
            power_w=self.power_w, nodes_s=self.nodes_s, factors=self.factors, weights_bytes=self.weights_bytes,
        )  # fmt: skip
        constants = {node for node, is_constant in self.graph.digraph.nodes(data="constant") if is_constant}
        return constrained(problem, self.constraints, constants=constants, absent=self.absent)


def prepare(
    model_path: str | Path,
    devices: Iterable[Device],
    costs: Costs,
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    power_w: Mapping[str, float] | None = None,
    absent: Iterable[Device] = (),
    capabilities: Capabilities | None = None,
    calibrations: Path | None = None,
    progress: Progress = no_progress,
) -> Prepared:
    """Read a model, and ask the devices what they can run of it; parameters as of `make_plan`."""
    if objective not in get_args(Objective):
        raise InfeasibleProblem(f"no objective {objective!r}", remedy=f"there are: {', '.join(get_args(Objective))}")
    demands = read_constraints(constraints)
    devices = tuple(devices)
    graph = Graph.read(model_path, shapes)
    tasks = task_graph(graph)
    refused = refusals(graph, tasks, devices, capabilities, progress) if capabilities is not None else {}
    nodes_s: Mapping[str, Mapping[str, float]] = {}
    if calibrations is not None and isinstance(costs, ProfileCosts) and costs.is_measured and len(devices) > 1:
        bare = make_problem(graph, devices, costs, tasks=tasks, refused=refused)
        alone_s = {d: sum(bare.time(task, d) for task in tasks) for d in bare.device_ids}
        found = calibrate(graph, costs, devices, alone_s, calibrations, refused=refused, progress=progress)
        costs, nodes_s = costs.scaled(found.scales), found.nodes_s
        tasks, refused = regrouped(graph, tasks, refused, found.together)
    known_w, weights = dict(power_w or {}), _weights(graph, tasks)
    return Prepared(graph, tasks, devices, costs, objective, demands, refused, known_w, weights, nodes_s, tuple(absent))


def _weights(graph: Graph, tasks: TaskGraph) -> dict[str, float]:
    """Bytes of the constants that each task's nodes use."""
    constants = graph.constants
    found = {}
    for task, nodes in tasks.nodes(data="nodes"):
        names = {str(value.name) for node in nodes for value in used_values(graph.nodes[node])}
        found[task] = float(
            sum(constants[n].nbytes for n in names if n in constants)
            + sum(graph.folded[n].nbytes for n in names if n in graph.folded and n not in constants)
        )
    return found
