"""Builds the placement problem of a model: what each task costs on each device, and where it may run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from math import inf

from trisect.profiles.capabilities.value_trials import REFERENCE_DEVICE
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.errors import UnsupportedOperator
from trisect.runtime.plans.plan_parts import NARROW_NUMBERS
from trisect.scheduler.problem.core_sharing import CoreSharing
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective, Rules
from trisect.scheduler.problem.task_graph import TaskGraph

from ..costs.model_costs import boundary_costs, fitted_task_times_s
from ..graph.ir_values import dtype_of, used_values
from ..graph.model_graph import Graph
from ..graph.paused_gc import paused_gc
from .constrained_problem import constrained
from .constraints import Constraints
from .stateful_tensors import state_groups
from .value_ranges import WIDE_DTYPES

PACE_DEVIATION = 0.14
"""Usual deviation of the pace of a machine with shared processors: plans that ran twice, minutes apart, differed by
0.15 on two virtual cores."""


@dataclass(frozen=True)
class ProblemInputs:
    """A model, its devices, and all that is known of them before placement: what a `Problem` is built from."""

    graph: Graph
    tasks: TaskGraph
    """Tasks of the graph; see `task_graph`."""
    devices: tuple[Device, ...]
    costs: Costs
    objective: Objective = "latency"
    constraints: Constraints = field(default_factory=Constraints)
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Task and device id -> why the task cannot run there; see `trisect.partitioner.problem.device_support`."""
    power_w: Mapping[str, float] = field(default_factory=dict)
    """Device id -> power draw under load in watts, where known."""
    nodes_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Device id -> node -> seconds, measured while the whole model ran; takes precedence over `costs`."""
    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Task and device id -> its time in a measured plan relative to the one from `costs`; 1 where missing."""
    weights_bytes: Mapping[str, float] = field(default_factory=dict)
    """Task -> bytes of the constants that it uses; where empty, memory is not checked."""
    absent: tuple[Device, ...] = ()
    """Devices that constraints may name though they are not available (any more)."""
    notes: tuple[str, ...] = ()
    """What a plan has to say about its costs."""
    pace_deviation: float = PACE_DEVIATION
    """Relative standard deviation of the machine's pace between the measurements and a run."""
    session_overhead_s: float = 0.0
    """What a session adds to the latency of a run, beside segments and transfers, as measured with the whole model."""

    @cached_property
    def times_s(self) -> Mapping[str, Mapping[str, float]]:
        """Task -> device id -> seconds, constraints left out; infinite where the device cannot run it.

        Raises
        ------
        UnsupportedOperator
            When no device can run a task.
        ProfileMissing
            When `costs` lacks a device.
        """
        _check_refusals(self)
        rows: dict[OpFeatures, dict[str, float]] = {}

        def row_of(operator: OpFeatures) -> dict[str, float]:
            row = rows.get(operator)
            if row is None:
                row = rows[operator] = {
                    d.id: self.costs.node_time_s(operator, d.id)
                    if not d.limits.dtypes or operator.dtype in d.limits.dtypes
                    else inf
                    for d in self.devices
                }
            return row

        times_s: dict[str, dict[str, float]] = {}  # rows are shared between tasks: replaced below, not changed
        for task, task_data in self.tasks.nodes(data=True):
            parts = [row_of(operator) for operator in task_data["operators"]]
            times_s[task] = parts[0] if len(parts) == 1 else {d.id: sum(p[d.id] for p in parts) for d in self.devices}
        if self.costs.models:
            for task, fitted_s in fitted_task_times_s(self.graph, self.tasks, self.costs).items():
                row = times_s[task]
                times_s[task] = {**row, **{d: t for d, t in fitted_s.items() if row.get(d, inf) < inf}}
        for device_id, known_s in self.nodes_s.items():
            for task, nodes in self.tasks.nodes(data="nodes"):
                if times_s[task][device_id] < inf and all(node in known_s for node in nodes):
                    times_s[task] = {**times_s[task], device_id: sum(known_s[node] for node in nodes)}
        for task, device_id in self.refused:
            if task in times_s:
                times_s[task] = {**times_s[task], device_id: inf}
        return times_s

    @cached_property
    def problem(self) -> Problem:
        """The placement problem.

        Raises
        ------
        UnsupportedOperator, InfeasibleProblem
            As `Problem.of` and `constrained`.
        InvalidInput
            As `constrained` and `state_groups`.
        ProfileMissing
            When `costs` lacks a device, or the power of one is needed and not known.
        """
        return _build(self)


@paused_gc()
def _build(inputs: ProblemInputs) -> Problem:
    times_s, factors = inputs.times_s, inputs.factors
    if factors:
        times_s = {
            task: {d: time_s * factors.get((task, d), 1.0) for d, time_s in row.items()}
            for task, row in times_s.items()
        }
    costs = inputs.costs
    problem = Problem.of(
        inputs.tasks,
        inputs.devices,
        times_s,
        _platform(inputs),
        objective=inputs.objective,
        rules=Rules(
            colocated=state_groups(inputs.graph, inputs.tasks, inputs.constraints.state),
            sizes_bytes=inputs.weights_bytes,
        ),
        boundary_costs=boundary_costs(inputs.graph, inputs.devices, costs) if costs.models else None,
        why_not=inputs.refused,
    )
    constants = {node for node, is_constant in inputs.graph.digraph.nodes(data="constant") if is_constant}
    return constrained(problem, inputs.constraints, constants=constants, absent=inputs.absent)


def _platform(inputs: ProblemInputs) -> Platform:
    """Return what holds for the devices whatever the model is."""
    costs, devices = inputs.costs, inputs.devices
    links = {(a.id, b.id): costs.link(a.id, b.id) for a, b in permutations(devices, 2)}
    overhead_s = {device.id: costs.call_overhead_s(device.id) for device in devices}
    if not costs.is_measured:
        return Platform(links, call_overhead_s=overhead_s, power_w=inputs.power_w)
    # CPU engines of one node compute on the same cores.
    cores = {device.id: f"{device.node}/cores" for device in devices if device.kind == "cpu"}
    return Platform(
        links,
        call_overhead_s=overhead_s,
        power_w=inputs.power_w,
        memory=costs.memory_needs(),
        core_sharing=CoreSharing(costs.slowdowns(), groups=cores),
        wakeup_costs=costs.wakeup_costs(),
    )


def _check_refusals(inputs: ProblemInputs) -> None:
    """Report a task that no device can run with the reason of each device, which a problem does not contain."""
    devices, refused = inputs.devices, inputs.refused
    for task, nodes in inputs.tasks.nodes(data="nodes"):
        reasons = [f"{d.id} ({refused[task, d.id]})" for d in devices if (task, d.id) in refused]
        if devices and len(reasons) == len(devices):
            operators = [operator.op_type for operator in inputs.tasks.nodes[task]["operators"]]
            others = len(nodes) - 1
            more = f", grouped with {others} other node{'s' if others > 1 else ''}," if others else ""
            raise UnsupportedOperator(
                f"node {task!r} ({operators[0]}){more} runs on none of {', '.join(reasons)}",
                remedy=_remedy(inputs, nodes, operators),
            )


def _remedy(inputs: ProblemInputs, nodes: Iterable[str], operators: Iterable[str]) -> str:
    foreign = sorted({name.partition("::")[0] for name in operators if "::" in name})
    if foreign:
        return f"add a device that can run it, or export the model without operators of {', '.join(foreign)}"
    remedy = "add a device that can run it"
    if REFERENCE_DEVICE not in {device.id for device in inputs.devices}:
        remedy += f" ({REFERENCE_DEVICE} runs most, slowly)"
    values = (value for node in nodes for value in inputs.graph.nodes[node].inputs if value is not None)
    if NARROW_NUMBERS not in inputs.constraints.assume and any(dtype_of(value) in WIDE_DTYPES for value in values):
        remedy += f", or assume {NARROW_NUMBERS} (--assume) if no number in the model needs more than 32 bits"
    return remedy


def weights_bytes(graph: Graph, tasks: TaskGraph) -> dict[str, float]:
    """Return the bytes of the constants that the nodes of each task use; shared ones count for each task."""
    constants = graph.constants
    sizes_bytes = {}
    for task, nodes in tasks.nodes(data="nodes"):
        names = {str(value.name) for node in nodes for value in used_values(graph.nodes[node])}
        sizes_bytes[task] = float(
            sum(constants[n].nbytes for n in names if n in constants)
            + sum(graph.folded[n].nbytes for n in names if n in graph.folded and n not in constants)
        )
    return sizes_bytes
