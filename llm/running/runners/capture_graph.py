"""Lets a graph end with a kernel instead of a copy, so that a recorded run writes its scores at each replay."""

from __future__ import annotations

import onnx

LOGITS = "logits"
_WINDOW = "local_window_size"
_COPIES = ("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that move no values: at the end of a graph, a provider copies instead of computing."""

_PROVED = {
    "Gather", "GroupQueryAttention", "MatMul", "Mul", "QuickGelu", "Reshape", "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Split", "Transpose",
}  # fmt: skip
"""Operators of graphs whose replays were compared, with onnxruntime-ep-webgpu 0.4.0."""


def recordable_graph(data: bytes) -> bytes | None:
    """Return a graph whose logits are written by a kernel; None if it cannot be changed into one, or is not proved.

    A last ``Reshape`` is left out, and with it the leading axis of size 1 of the logits. Graphs with sliding windows
    are left alone: what a provider does for a window depends on the number of tokens so far, read on the host.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    if any(attribute.name == _WINDOW for node in graph.node for attribute in node.attribute):
        return None
    if not {node.op_type for node in graph.node} <= _PROVED:
        return None
    last = next((node for node in graph.node if LOGITS in node.output), None)
    if last is not None and last.op_type == "Reshape":
        source = last.input[0]
        if sum(source in node.input for node in graph.node) != 1:
            return None
        graph.node.remove(last)
        last = None
        for node in graph.node:
            if source in node.output:
                node.output[list(node.output).index(source)] = LOGITS
                last = node
        output = next(value for value in graph.output if value.name == LOGITS)
        del output.type.tensor_type.shape.dim[0]
    if last is None or last.op_type in _COPIES:
        return None
    changed: bytes = model.SerializeToString()
    return changed
