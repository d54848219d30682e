"""Pieces: the ONNX nodes that become one segment each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trisect.scheduler.problem.problem import Part
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from ..problem.task_grouping import nodes_of_tasks


@dataclass(frozen=True)
class Piece:
    """ONNX nodes that become one segment."""

    device: str
    nodes: tuple[str, ...]


def with_constant_outputs(graph: Graph, pieces: list[Piece], device: str) -> list[Piece]:
    """Return the pieces; where there are none, one without nodes for the constants that the model returns."""
    stored = [
        value for value in graph.model.graph.outputs if value.producer() is None and value.name in graph.constants
    ]
    return pieces or ([Piece(device, ())] if stored else [])


def pieces_of_parts(graph: Graph, tasks: TaskGraph, parts: Iterable[Part]) -> list[Piece]:
    """Return the ONNX nodes of each part of a task graph, in the model's order."""
    members = nodes_of_tasks(tasks)
    position = {node: index for index, node in enumerate(graph.nodes)}
    return [
        Piece(part.device, tuple(sorted((n for task in part.nodes for n in members[task]), key=position.__getitem__)))
        for part in parts
    ]
