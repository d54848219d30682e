"""From a model file to a Plan in a folder: the whole way.

`prepare` reads the model and asks the devices; `make_plan` has it placed, cut and written. Only the compiler of a
device says for certain that a segment runs there. Where it refuses one, its nodes are kept off that device and the plan
is made anew, a few times.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.op_features import Costs
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InfeasibleProblem
from trisect.runtime.plans.plan import Plan, Segment
from trisect.runtime.plans.plan_folder import folder_in_the_making, write_json
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.core_sharing import CoreSharing
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.energy_and_memory import with_totals
from trisect.scheduler.simulation.part_times import loads_s

from ..graph.model_graph import Graph
from ..problem.constraints import Constraints
from ..problem.device_copies import with_copies
from ..problem.device_support import described, refused_segments
from ..segments.boundary_layouts import crossing_images
from ..segments.segment_writer import Piece, write_segments
from ..strategies import TIME_LIMIT_S, propose
from ..strategies.common.placement_value import Verdict, certificate, judge
from .placement_reasons import placed_tasks
from .preparation import Prepared, prepare
from .refinement import Keep, refined

_TRIALS = 5
"""Plans that are tried while devices refuse segments."""
_ROUNDING = 1e-9


def make_plan(
    model_path: str | Path,
    devices: Iterable[Device],
    costs: Costs,
    strategy: str = "auto",
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    seed: int = 0,
    out_folder: str | Path = "plan",
    *,
    constraints: Constraints | Mapping[str, Any] | str | Path | None = None,
    time_limit_s: float | None = None,
    power_w: Mapping[str, float] | None = None,
    machine: str = "",
    absent: Iterable[Device] = (),
    capabilities: Capabilities | None = None,
    calibrations: Path | None = None,
    refine: int = 0,
    keep: Keep | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Split a model over devices.

    Parameters
    ----------
    model_path : str or Path
        An ONNX file.
    devices : iterable of Device
    costs : Costs
        What work and transfers cost on them.
    strategy : str
        Name of a strategy, with an argument behind a colon where it takes one (``single:cpu:ort``).
    objective : {"latency", "throughput", "energy", "memory"}
    shapes : mapping of str to int, optional
        Sizes of the inputs' symbolic dimensions.
    seed : int
        For strategies that draw lots; recorded in the plan.
    out_folder : str or Path
        New, or that of an earlier plan, which is replaced once the new one is whole.
    constraints : Constraints, mapping or path, optional
        What is demanded of the placement; see `trisect.partitioner.problem.constraints`.
    time_limit_s : float, optional
        For strategies that search.
    power_w : mapping of str to float, optional
        Device id -> watts while it works, where known; needed for ``energy``.
    machine : str
        Name of the published machine that the costs are of; recorded in the plan.
    absent : iterable of Device
        Devices that constraints may name though the plan must do without them.
    capabilities : Capabilities, optional
        Where devices are asked what they can run; when left out, they are taken to run what has a cost.
    calibrations : Path, optional
        File that keeps what whole models took; where given, the model is run on each device to bring measured costs in
        line with it.
    refine : int
        How often to run the plan, correct the costs by what its segments took, and plan anew; the quickest is kept.
    keep : callable, optional
        Given the measured segments of each plan that ran.
    progress : callable, optional
        Told of the asking.

    Returns
    -------
    Plan
        The same bytes in `out_folder` for the same input.

    Raises
    ------
    TrisectError
        The one that fits: a bad model, an unbound dimension, an operator that no device can run, constraints that
        contradict each other, an unknown strategy, no room on the disk.
    """
    prepared = prepare(
        model_path, devices, costs, objective, shapes, constraints=constraints, power_w=power_w, absent=absent,
        capabilities=capabilities, calibrations=calibrations, progress=progress,
    )  # fmt: skip

    def planned(prepared: Prepared, folder: str | Path, strategy: str = strategy) -> Plan:
        return _planned(
            prepared, strategy, folder, seed=seed, time_limit_s=time_limit_s, machine=machine, capabilities=capabilities
        )

    if refine > 0:
        singles = [f"single:{device.id}" for device in prepared.devices] if strategy == "auto" else []
        alone = [partial(planned, strategy=single) for single in singles]
        return refined(prepared, planned, refine, Path(out_folder), alone=alone, keep=keep, progress=progress)
    return planned(prepared, out_folder)


def _planned(
    prepared: Prepared,
    strategy: str,
    out_folder: str | Path,
    *,
    seed: int,
    time_limit_s: float | None,
    machine: str,
    capabilities: Capabilities | None,
) -> Plan:
    """Place, cut and write; anew while devices refuse segments."""
    notes: list[str] = []
    for trial in range(_TRIALS):
        problem = prepared.problem()
        proposal = propose(problem, strategy, time_limit_s=time_limit_s or TIME_LIMIT_S, seed=seed)
        try:
            return write_plan(
                prepared, problem, proposal, out_folder, strategy=strategy, seed=seed, time_limit_s=time_limit_s,
                machine=machine, notes=notes, capabilities=capabilities,
            )  # fmt: skip
        except _SegmentsRefused as refusal:
            if trial == _TRIALS - 1:
                raise
            prepared = _without(prepared, refusal.refused)
            notes += [
                f"{described(segment)} does not compile on {segment.device}, so its nodes are kept off it: {reason}"
                for segment, reason in refusal.refused
            ]
    raise AssertionError("unreachable")


def write_plan(
    prepared: Prepared,
    problem: Problem,
    proposal: Proposal,
    out_folder: str | Path,
    *,
    strategy: str,
    seed: int = 0,
    time_limit_s: float | None = None,
    machine: str = "",
    notes: Iterable[str] = (),
    capabilities: Capabilities | None = None,
) -> Plan:
    """Cut a placement, and write it down with its certificate.

    Raises
    ------
    InfeasibleProblem
        When the placement breaks a rule of the problem.
    EngineFailed
        When a device refuses a segment.
    StorageFailed
    """
    graph = prepared.graph
    verdict = judge(problem, proposal)
    if verdict.violations:
        message = verdict.violations[0].message
        raise InfeasibleProblem(f"the strategy {strategy!r} gave a placement that cannot be: {message}")
    assert verdict.schedule is not None
    placement, value = proposal.placement, verdict.value
    bound = certificate(problem, proposal)
    cut_short = ["the time limit ended the search: another run may find something else"] * proposal.is_cut_short
    members = {task: data["nodes"] for task, data in problem.graph.nodes(data=True)}
    with folder_in_the_making(Path(out_folder)) as aside:
        pieces = [_piece(graph, part, members) for part in verdict.parts]
        images = crossing_images(graph, pieces, prepared.devices)
        segments, transfers, weights = write_segments(graph, pieces, aside, images)
        if capabilities is not None:
            refused = refused_segments(segments, prepared.devices, aside, capabilities)
            if refused:
                raise _SegmentsRefused(refused)
        plan = Plan(
            model=graph.path.name,
            model_sha256=graph.sha256,
            devices=prepared.devices,
            placement=_of_nodes(graph, problem, placement),
            segments=segments,
            transfers=transfers,
            inputs=graph.inputs,
            outputs=graph.outputs,
            strategy=strategy,
            objective=prepared.objective,
            seed=seed,
            shapes=dict(graph.shapes),
            predicted=with_totals(problem, verdict.parts, with_copies(verdict.schedule, segments, prepared.devices)),
            value=value,
            bound=value if bound.value >= value * (1 - _ROUNDING) else bound.value,
            bound_by=bound.by,
            tasks=placed_tasks(problem, placement),
            notes=(*notes, *cut_short, *_in_processes(prepared, problem, verdict)),
            constraints=prepared.constraints.plain(),
            time_limit_s=time_limit_s,
            machine=machine,
            weights=weights,
        )
        write_json(plan, aside)
    told = plan.notes
    if capabilities is not None and capabilities.moved is not None:
        # Of this run and not of the plan, whose file is the same whatever befell a cache.
        told = (*told, f"what engines were known to run could not be read and was moved to {capabilities.moved}")
    return replace(plan, folder=os.path.abspath(out_folder), notes=told)


def _in_processes(prepared: Prepared, problem: Problem, verdict: Verdict) -> list[str]:
    """What a stream gains or loses where CPU engines get cores of their own, instead of all competing for all."""
    costs = prepared.costs
    slowdowns = costs.slowdowns("processes") if isinstance(costs, ProfileCosts) and costs.is_measured else {}
    loads = loads_s(problem, verdict.parts)
    met = [pair for pair in slowdowns if set(pair) <= loads.keys()]
    if problem.objective != "throughput" or not met or verdict.value <= 0:
        return []
    period_s = max(CoreSharing(slowdowns, is_pinned=True).busy_s(loads).values())
    return [
        f"engines on the same cores slow each other, as measured: predicted are {1 / verdict.value:.4g} items a second "
        f"in threads, and {1 / period_s:.4g} in processes on cores of their own"
    ]


class _SegmentsRefused(EngineFailed):
    """Segments that do not compile where they are to run; leaves the folder in the making to be removed."""

    def __init__(self, refused: list[tuple[Segment, str]]) -> None:
        segment, reason = refused[0]
        super().__init__(
            f"{described(segment)} does not compile on {segment.device}: {reason}",
            remedy=f"split without {segment.device}",
        )
        self.refused = refused


def _without(prepared: Prepared, refused: list[tuple[Segment, str]]) -> Prepared:
    """The same with the nodes of refused segments kept off their devices."""
    owner = {node: task for task, nodes in prepared.tasks.nodes(data="nodes") for node in nodes}
    more = {
        (owner[node], segment.device): f"does not compile there together with others: {reason}"
        for segment, reason in refused
        for node in segment.nodes
        if node in owner
    }
    return replace(prepared, refused={**prepared.refused, **more})


def _piece(graph: Graph, part: Part, members: Mapping[str, tuple[str, ...]]) -> Piece:
    """The part's ONNX nodes, in the model's order."""
    inside = {node for task in part.nodes for node in members[task]}
    return Piece(part.device, tuple(node for node in graph.nodes if node in inside))


def _of_nodes(graph: Graph, problem: Problem, placement: Mapping[str, str]) -> dict[str, str]:
    """The placement of tasks, spread over the ONNX nodes; a constant is where it is first used."""
    task_of = {node: task for task, nodes in problem.graph.nodes(data="nodes") for node in nodes}
    where: dict[str, str] = {}
    for node in reversed(list(graph.nodes)):
        task = task_of.get(node)
        users = [where[user] for user in graph.digraph.successors(node)] if task is None else []
        where[node] = placement[task] if task is not None else users[0] if users else problem.device_ids[0]
    return {node: where[node] for node in graph.nodes}
