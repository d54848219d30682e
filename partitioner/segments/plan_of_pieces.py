"""A plan of pieces that were cut without predicting them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trisect.runtime.device import Device
from trisect.runtime.files.atomic_folder import atomic_folder
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_folder import PLAN_FOLDER, write_json
from trisect.runtime.plans.plan_parts import PlacedTask
from trisect.runtime.plans.timeline import Timeline

from ..graph.model_graph import Graph
from .pieces import Piece
from .segment_writer import write_segments


def plan_of_pieces(
    graph: Graph,
    pieces: Sequence[Piece],
    devices: Sequence[Device],
    out_folder: str | Path,
    *,
    strategy: str,
    tasks: Sequence[PlacedTask] = (),
) -> Plan:
    """Write a plan of pieces, without predictions.

    Parameters
    ----------
    pieces : sequence of Piece
        In an order in which they can run; every node that is not constant in exactly one.
    devices : sequence of Device
        At least those that the pieces name.
    out_folder : str or Path
        New, or that of an earlier plan.
    strategy : str
        Recorded in the plan.
    tasks : sequence of PlacedTask, optional
        Why each node is where it is.
    """
    with atomic_folder(Path(out_folder), PLAN_FOLDER) as aside:
        segments, transfers, weights = write_segments(graph, pieces, aside)
        plan = Plan(
            model=graph.path.name,
            model_sha256=graph.sha256,
            devices=tuple(devices),
            placement={node: piece.device for piece in pieces for node in piece.nodes},
            segments=segments,
            transfers=transfers,
            inputs=graph.inputs,
            fixed_inputs=graph.fixed_inputs,
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
