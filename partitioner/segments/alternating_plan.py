"""A plan with one segment per node and alternating devices, to test whether splitting a model changes its results.

Such a plan is slow, but every tensor that can cross a segment boundary does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileProbe
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import PlacedTask
from trisect.scheduler.problem.task_graph import TaskGraph, topological_order

from ..graph.ir_values import has_subgraph
from ..graph.model_graph import Graph
from ..problem.device_support import TaskModels, candidate, refusals
from ..problem.numeric_trials import EQUAL, UNDECIDED, NumericResult, Outcome, numeric_trials
from ..problem.task_grouping import nodes_of_tasks, task_graph
from .pieces import Piece
from .plan_of_pieces import plan_of_pieces

_REFERENCE_OPSET_MIN = 13
"""The oldest opset whose operators the reference implements as they were defined then."""
_TRIAL_FLOPS_MAX = 2e6
"""Larger tasks are not compared: the reference implementation would take seconds."""


def alternating_plan(
    model_path: str | Path,
    devices: Sequence[Device],
    last_resort: Device,
    shapes: Mapping[str, int] | None = None,
    out_folder: str | Path = "plan",
    *,
    capabilities: Capabilities,
) -> Plan:
    """Make a plan with one segment per node, on alternating devices.

    Parameters
    ----------
    model_path : str or Path
        An ONNX file.
    devices : sequence of Device
        Used in turn; a device that cannot run a node leaves it to the next that can. The first is used where it cannot
        be decided which device is right.
    last_resort : Device
        ONNX's reference; runs what no other device does.
    shapes : mapping of str to int, optional
        Sizes of symbolic dimensions.
    out_folder : str or Path
        New, or that of an earlier plan.
    capabilities : Capabilities
        What each device supports: what compiles there, and on generated inputs gives the same results as the last
        resort (see `trisect.partitioner.problem.numeric_trials`).

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator, InvalidInput
        As `Graph.read`.
    """
    graph = Graph.read(model_path, shapes)
    tasks = task_graph(graph, keep_quantised=False)
    refused = refusals(graph, tasks, devices, capabilities)
    results = _numeric_results(graph, tasks, devices, last_resort, refused, capabilities)
    pieces: list[Piece] = []
    placed: list[PlacedTask] = []
    for number, task in enumerate(topological_order(tasks)):
        turns = [devices[(number + i) % len(devices)] for i in range(len(devices))]
        reasons = {d: refused.get((task, d.id)) or results.get((task, d.id), EQUAL).reason for d in turns}
        able = [d for d in turns if not reasons[d]]
        if not able and (task, devices[0].id) not in refused and results[task, devices[0].id].outcome == "undecided":
            able = [devices[0]]
        nodes: tuple[str, ...] = tasks.nodes[task]["nodes"]
        device_id = (able[0] if able else last_resort).id
        why = "; ".join(f"{d.id}: {reason}" for d, reason in reasons.items() if reason)
        features = tasks.nodes[task]["features"]
        pieces.append(Piece(device_id, nodes))
        placed.append(
            PlacedTask(
                nodes,
                device_id,
                features.op_type,
                features.op_class,
                f"{device_id}: its turn{f' ({why})' if why else ''}",
            )
        )
    return plan_of_pieces(graph, pieces, (*devices, last_resort), out_folder, strategy="alternating", tasks=placed)


def _numeric_results(
    graph: Graph,
    tasks: TaskGraph,
    devices: Sequence[Device],
    reference: Device,
    refused: Mapping[tuple[str, str], str],
    capabilities: Capabilities,
) -> dict[tuple[str, str], NumericResult]:
    """Compare devices with the reference, task by task.

    Tasks that are too large for the reference, or have a subgraph (which it computes wrongly itself), are not compared.

    Returns
    -------
    dict
        Task and device id -> a result other than ``equal``.
    """
    members = nodes_of_tasks(tasks)
    results: dict[tuple[str, str], NumericResult] = {}
    with tempfile.TemporaryDirectory(prefix="trisect-try-") as folder:
        models = TaskModels(graph, members, Path(folder))
        for task, nodes in members.items():
            if sum(features.flops for features in tasks.nodes[task]["operators"]) > _TRIAL_FLOPS_MAX:
                continue
            if any(has_subgraph(graph.nodes[node]) for node in nodes):
                continue
            is_reliable = _is_reference_reliable(graph, nodes)
            question = candidate(graph, nodes, partial(models.file, task))
            for device in devices:
                if (task, device.id) in refused:
                    continue
                result = _cached_result(question, device, capabilities)
                if result is None:
                    result = numeric_trials().run(models.file(task), device, reference)
                    capabilities.record(_keyed(question, result.outcome), device, result.reason)
                if not is_reliable and result.outcome in ("equal", "different"):
                    result = UNDECIDED
                if result.outcome != "equal":
                    results[task, device.id] = result
    capabilities.save()
    return results


def _keyed(question: CompileProbe, outcome: Outcome) -> CompileProbe:
    return replace(question, key=f"numeric {outcome}: {question.key}")


def _cached_result(question: CompileProbe, device: Device, capabilities: Capabilities) -> NumericResult | None:
    for outcome in get_args(Outcome):
        verdict = capabilities.known(_keyed(question, outcome), device)
        if verdict is not None:
            return NumericResult(outcome, verdict.reason)
    return None


def _is_reference_reliable(graph: Graph, nodes: tuple[str, ...]) -> bool:
    """Return whether the reference's results on generated inputs decide whether a device is right.

    The reference implements the newest definition of an operator. And where the shape of an output depends on values,
    engines differ at values that are unlikely to be generated (an overlap exactly at the threshold).
    """
    version = graph.model.graph.opset_imports.get("", _REFERENCE_OPSET_MIN)
    outputs = [value for node in nodes for value in graph.nodes[node].outputs if value.name]
    shapes = [value.shape for value in outputs if value.shape is not None]
    return version >= _REFERENCE_OPSET_MIN and all(shape.is_static() for shape in shapes)
