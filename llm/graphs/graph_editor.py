"""Adds nodes and constants to an existing graph, under names that do not collide with its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class GraphEditor:
    """Adds to one graph, which the caller has to sort afterwards.

    Parameters
    ----------
    purpose : str
        Part of the names; one editor per purpose.
    """

    def __init__(self, graph: ir.Graph, purpose: str) -> None:
        self._graph = graph
        self._purpose = purpose
        self._count = 0

    def node(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Add a node at the end and return its single output."""
        node = ir.node(op, list(inputs), attributes)
        self._graph.append(node)
        node.name = node.outputs[0].name = self._name(op)
        return node.outputs[0]

    def ints(self, *values: int) -> ir.Value:
        """Add a constant, int64 [number of values], and return it."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray) -> ir.Value:
        """Add a constant and return it."""
        name = self._name("constant")
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"trisect.{self._purpose}.{kind}.{self._count}"
