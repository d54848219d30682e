"""The hardest split there is: every node a segment of its own, the devices taking turns.

Nobody wants it for speed. It is how to find out whether splitting a model changes its answers: each tensor that can
cross a border does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import networkx as nx

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import PlacedTask, Plan
from trisect.runtime.plans.plan_folder import folder_in_the_making, write_json
from trisect.runtime.plans.timeline import Timeline
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from ..graph.node_features import subgraphs
from ..problem.device_support import Pieces, candidate, refusals
from ..problem.numeric_trials import OFF, UNTRIED, trials
from ..problem.problem_builder import task_graph
from .segment_writer import Piece, write_segments

_JUDGED_FROM = 13
"""The oldest opset whose operators the reference implements as they were."""
_MOST_FLOPS = 2e6
"""A task heavier than this is not tried: the reference implementation would take seconds."""


def alternating_plan(
    model_path: str | Path,
    devices: Sequence[Device],
    last_resort: Device,
    shapes: Mapping[str, int] | None = None,
    out_folder: str | Path = "plan",
    *,
    capabilities: Capabilities,
) -> Plan:
    """Cut a model into its nodes and deal them out to devices in turn.

    Parameters
    ----------
    model_path : str or Path
        An ONNX file.
    devices : sequence of Device
        They take turns; one that cannot run a node leaves it to the next that can. The first is trusted where nobody
        can tell who is right.
    last_resort : Device
        ONNX's reference; gets what none of them runs.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions.
    out_folder : str or Path
        New, or that of an earlier plan.
    capabilities : Capabilities
        Answers, or lets the devices answer, what can run where: what compiles there, and on made-up values gives what
        the last resort gives (see `trisect.partitioner.problem.numeric_trials`).

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator, InvalidInput
        See `Graph.read`.
    """
    graph = Graph.read(model_path, shapes)
    tasks = task_graph(graph, keep_quantised=False)
    refused = refusals(graph, tasks, devices, capabilities)
    tried = _tried(graph, tasks, devices, last_resort, refused, capabilities)
    pieces: list[Piece] = []
    placed: list[PlacedTask] = []
    for number, task in enumerate(nx.topological_sort(tasks)):
        turns = [devices[(number + i) % len(devices)] for i in range(len(devices))]
        against = {d: refused.get((task, d.id)) or tried.get((task, d.id), "") for d in turns}
        able = [d for d in turns if not against[d]] or [d for d in devices[:1] if against[d] == UNTRIED]
        nodes: tuple[str, ...] = tasks.nodes[task]["nodes"]
        pieces.append(Piece((able[0] if able else last_resort).id, nodes))
        why = "; ".join(f"{d.id}: {reason}" for d, reason in against.items() if reason)
        reason = f"{pieces[-1].device}: its turn{f' ({why})' if why else ''}"
        work = tasks.nodes[task]["features"]
        placed.append(PlacedTask(nodes, pieces[-1].device, work.op_type, work.op_class, reason))
    return plan_of_pieces(graph, pieces, (*devices, last_resort), out_folder, strategy="alternating", tasks=placed)


def plan_of_pieces(
    graph: Graph,
    pieces: Sequence[Piece],
    devices: Sequence[Device],
    out_folder: str | Path,
    *,
    strategy: str,
    tasks: Sequence[PlacedTask] = (),
) -> Plan:
    """A plan of pieces that somebody else cut, with nothing predicted of it.

    Parameters
    ----------
    graph : Graph
    pieces : sequence of Piece
        In an order in which they can run; every node that is not constant in exactly one.
    devices : sequence of Device
        At least those that the pieces name.
    out_folder : str or Path
        New, or that of an earlier plan.
    strategy : str
        What is told of how it came about.
    tasks : sequence of PlacedTask, optional
        Why each node is where it is.
    """
    with folder_in_the_making(Path(out_folder)) as aside:
        segments, transfers, weights = write_segments(graph, pieces, aside)
        plan = Plan(
            model=graph.path.name,
            model_sha256=graph.sha256,
            devices=tuple(devices),
            placement={node: piece.device for piece in pieces for node in piece.nodes},
            segments=segments,
            transfers=transfers,
            inputs=graph.inputs,
            outputs=graph.outputs,
            strategy=strategy,
            objective="latency",
            seed=0,
            shapes=dict(graph.shapes),
            predicted=Timeline.of([], source="predicted"),
            value=0.0,
            bound=0.0,
            tasks=tuple(tasks),
            weights=weights,
        )
        write_json(plan, aside)
    return replace(plan, folder=os.path.abspath(out_folder))


def _tried(
    graph: Graph,
    tasks: TaskGraph,
    devices: Sequence[Device],
    reference: Device,
    refused: Mapping[tuple[str, str], str],
    capabilities: Capabilities,
) -> dict[tuple[str, str], str]:
    """Task and device id -> what speaks against it: a wrong answer, or that nobody can tell.

    Tasks that are too heavy for the reference, or hold a body (in which it errs itself), are not tried.
    """
    members: dict[str, tuple[str, ...]] = {task: data["nodes"] for task, data in tasks.nodes(data=True)}
    found: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory(prefix="trisect-try-") as folder:
        pieces = Pieces(graph, members, Path(folder))
        for task, nodes in members.items():
            if sum(features.flops for features in tasks.nodes[task]["work"]) > _MOST_FLOPS:
                continue
            if any(next(subgraphs(graph.nodes[node]), None) is not None for node in nodes):
                continue
            is_judged_well = _is_judged_well(graph, nodes)
            piece = candidate(graph, nodes, partial(pieces.of, task))
            for device in devices:
                if (task, device.id) in refused:
                    continue
                trial = replace(piece, key=f"right: {piece.key}")
                verdict = capabilities.known(trial, device)
                if verdict is None:
                    verdict = capabilities.learn(
                        trial, device, trials().wrong_answer(pieces.of(task), device, reference)
                    )
                if not verdict.ok and (is_judged_well or OFF not in verdict.reason):
                    found[task, device.id] = verdict.reason
                elif not is_judged_well:
                    found[task, device.id] = UNTRIED
    capabilities.save()
    return found


def _is_judged_well(graph: Graph, nodes: tuple[str, ...]) -> bool:
    """Whether made-up values and the reference tell much of a task.

    The reference knows operators by their newest meaning. And where the values decide how much there is in an output,
    engines differ at values that nobody happens to make up (an overlap that is just the threshold).
    """
    version = graph.model.graph.opset_imports.get("", _JUDGED_FROM)
    outputs = [value for node in nodes for value in graph.nodes[node].outputs if value.name]
    shapes = [value.shape for value in outputs if value.shape is not None]
    return version >= _JUDGED_FROM and all(shape.is_static() for shape in shapes)
