"""A plan with one segment per node and alternating devices, to test whether splitting a model changes its results.

Such a plan is slow, but every tensor that can cross a segment boundary does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.trial_feeds import is_random_operator
from trisect.profiles.capabilities.value_trials import EQUAL
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import PlacedTask
from trisect.scheduler.problem.task_graph import topological_order

from ..graph.model_graph import Graph
from ..problem.device_support import compile_refusals
from ..problem.task_grouping import nodes_of_tasks, task_graph
from ..problem.trial_units import TrialUnits
from ..problem.value_ranges import value_ranges
from ..problem.value_support import value_results
from .pieces import Piece, with_constant_outputs
from .plan_of_pieces import plan_of_pieces


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
        What each device supports: what compiles there, and computes the same as others
        (see `trisect.partitioner.problem.value_support`).

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator, InvalidInput
        As `Graph.read`.
    """
    graph = Graph.read(model_path, shapes)
    tasks = task_graph(graph, keep_quantised=False)
    refused = compile_refusals(graph, tasks, devices, capabilities)
    units = TrialUnits(graph, value_ranges(graph, finite=False))
    results = value_results(units, nodes_of_tasks(tasks), devices, refused, capabilities)
    pieces: list[Piece] = []
    placed: list[PlacedTask] = []
    for number, task in enumerate(topological_order(tasks)):
        turns = [devices[(number + i) % len(devices)] for i in range(len(devices))]
        reasons = {d: refused.get((task, d.id)) or results.get((task, d.id), EQUAL).reason for d in turns}
        nodes: tuple[str, ...] = tasks.nodes[task]["nodes"]
        # Each engine draws its own random numbers; a suite expects those of the last resort.
        is_random = any(is_random_operator(graph.nodes[node].op_type, graph.nodes[node].inputs) for node in nodes)
        able = [d for d in turns if not reasons[d] and not is_random]
        if (
            not (able or is_random)
            and (task, devices[0].id) not in refused
            and results[task, devices[0].id].outcome == "undecided"
        ):
            able = [devices[0]]
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
    pieces = with_constant_outputs(graph, pieces, devices[0].id)
    return plan_of_pieces(graph, pieces, (*devices, last_resort), out_folder, strategy="alternating", tasks=placed)
