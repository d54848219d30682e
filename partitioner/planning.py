"""From a model file to a Plan in a folder: the whole way, in one function."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from trisect.profiles.capabilities import Capabilities
from trisect.profiles.features import Costs
from trisect.runtime.devices import Device
from trisect.runtime.errors import InfeasibleProblem
from trisect.runtime.plan import Plan
from trisect.runtime.planfolder import folder_in_the_making, write_json
from trisect.scheduler.bounds import lower_bound
from trisect.scheduler.problem import Objective, Part, Problem

from .cut import best_cut
from .graph import Graph
from .problem import make_problem, task_graph
from .reasons import reasons
from .strategies import place
from .support import Progress, check_segments, refusals
from .writing import Piece, write_segments


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
    forced: Mapping[str, str] | None = None,
    forbidden: Mapping[str, Iterable[str]] | None = None,
    capabilities: Capabilities | None = None,
    progress: Progress | None = None,
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
    objective : {"latency", "throughput"}
    shapes : mapping of str to int, optional
        Sizes of the inputs' symbolic dimensions.
    seed : int
        For strategies that draw lots; recorded in the plan.
    out_folder : str or Path
        New, or that of an earlier plan, which is replaced once the new one is whole.
    forced, forbidden : mapping, optional
        Node name -> device id, or device ids.
    capabilities : Capabilities, optional
        Where devices are asked what they can run; when left out, they are taken to run what has a cost.
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
    if objective not in get_args(Objective):
        raise InfeasibleProblem(f"no objective {objective!r}", remedy=f"there are: {', '.join(get_args(Objective))}")
    devices = tuple(devices)
    graph = Graph.read(model_path, shapes)
    tasks = task_graph(graph)
    refused = refusals(graph, tasks, devices, capabilities, progress) if capabilities is not None else {}
    problem = make_problem(
        graph, devices, costs, objective=objective, forced=forced, forbidden=forbidden, tasks=tasks, refused=refused
    )
    placement = place(problem, strategy)
    parts, value, schedule = best_cut(problem, placement)
    why = reasons(problem, placement)
    members = {task: data["nodes"] for task, data in problem.graph.nodes(data=True)}
    node_placement, node_reasons = _of_nodes(graph, problem, placement, why)
    with folder_in_the_making(Path(out_folder)) as aside:
        segments, transfers, weights = write_segments(graph, [_piece(graph, part, members) for part in parts], aside)
        if capabilities is not None:
            check_segments(segments, devices, aside, capabilities)
        plan = Plan(
            model=graph.path.name,
            model_sha256=graph.sha256,
            devices=devices,
            placement=node_placement,
            segments=segments,
            transfers=transfers,
            inputs=graph.inputs,
            outputs=graph.outputs,
            strategy=strategy,
            objective=objective,
            seed=seed,
            shapes=dict(graph.shapes),
            predicted=schedule,
            value=value,
            bound=lower_bound(problem),
            reasons=node_reasons,
            weights=weights,
        )
        write_json(plan, aside)
    return replace(plan, folder=os.path.abspath(out_folder))


def _piece(graph: Graph, part: Part, members: Mapping[str, tuple[str, ...]]) -> Piece:
    """The part's ONNX nodes, in the model's order."""
    inside = {node for task in part.nodes for node in members[task]}
    return Piece(part.device, tuple(node for node in graph.nodes if node in inside))


def _of_nodes(
    graph: Graph, problem: Problem, placement: Mapping[str, str], why: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Placement and reasons of tasks, spread over the ONNX nodes; a constant is where it is first used."""
    task_of = {node: task for task, nodes in problem.graph.nodes(data="nodes") for node in nodes}
    where: dict[str, str] = {}
    because: dict[str, str] = {}
    for node in reversed(list(graph.nodes)):
        task = task_of.get(node)
        if task is not None:
            where[node], because[node] = placement[task], why[task]
            continue
        users = [where[user] for user in graph.digraph.successors(node)]
        where[node] = users[0] if users else problem.device_ids[0]
        because[node] = "constant at these shapes: each segment that needs it holds it"
    return {node: where[node] for node in graph.nodes}, {node: because[node] for node in graph.nodes}
