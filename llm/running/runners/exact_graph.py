"""A bundle's graph with matrix products in float32, whatever its weights are stored in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

_ACCURACY = "accuracy_level"
_FLOAT32 = 1
"""Of the attribute ``accuracy_level`` of ``com.microsoft.MatMulNBits``: activations stay in float32 (4 = 8 bits)."""


@dataclass(frozen=True)
class ExactGraph:
    """An ONNX graph, without its weights."""

    data: bytes
    is_changed: bool
    """Whether it differs from the bundle's graph."""


def exact_graph(path: Path) -> ExactGraph:
    """Return a graph in which no activation is quantised."""
    model = onnx.load(str(path), load_external_data=False)
    is_changed = False
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == _ACCURACY and attribute.i > _FLOAT32:
                attribute.i, is_changed = _FLOAT32, True
    data: bytes = model.SerializeToString()
    return ExactGraph(data, is_changed)
