"""Synthetic inputs of a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from ..tensors.synthetic_feeds import generate_feeds
from .plan import Plan


def plan_feeds(plan: Plan, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs that the segments of a plan can compute with, the same for the same seed.

    Parameters
    ----------
    plan : Plan
        Loaded, or just made: its segment files are read, their weights are not.
    """
    nodes = onnx.ModelProto()
    for segment in plan.segments:
        graph = onnx.load(Path(plan.folder) / segment.file, load_external_data=False).graph
        nodes.graph.node.extend(graph.node)
        nodes.graph.initializer.extend(graph.initializer)
        nodes.graph.value_info.extend((*graph.input, *graph.output, *graph.value_info))
    return generate_feeds(nodes, plan, seed, narrow=plan.assumes_narrow_numbers)
