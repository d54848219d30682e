"""Changes a language model's graph from one sequence to a batch.

Fixed to one sequence are the shapes of inputs and outputs, the constants that tensors are reshaped to, and the position
of the last token: a graph whose tokens are rows of one matrix has as many last rows as sequences. The result is checked
against single sequences by `trisect.bench.llm.batch_throughput`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect.runtime.errors import UnsupportedModel


def for_batch(model: onnx.ModelProto, batch: int) -> None:
    """Change a graph, read without its weights, to a batch of sequences of one length.

    Raises
    ------
    UnsupportedModel
        If the graph is not for one sequence.
    """
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) == 0 or value.name == "total_sequence_length":  # the same for all sequences
            continue
        if sizes[0].dim_value != 1:
            raise UnsupportedModel(f"{value.name!r} is not for one sequence")
        sizes[0].dim_value = batch
    del graph.value_info[:]  # shapes of one sequence
    constants = {tensor.name: tensor for tensor in graph.initializer}
    hidden = _reshape(graph, constants, batch)
    _last_rows(graph, constants, batch, hidden)


def _reshape(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto], batch: int) -> int:
    """Change the targets of reshapes to the batch size; return the width of a token, or 0."""
    weights = {name for name, tensor in constants.items() if tensor.external_data}
    widths = []
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in weights or node.input[1] not in constants:
            continue
        target = constants[node.input[1]]
        shape = numpy_helper.to_array(target).copy()
        if node.output[0] == "embedding":
            widths.append(int(shape[-1]))
        if len(shape) > 1 and shape[0] == 1:
            shape[0] = batch
            target.CopyFrom(numpy_helper.from_array(shape, target.name))
    return widths[0] if widths else 0


def _last_rows(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto], batch: int, hidden: int) -> None:
    """Gather the last row of each sequence where the last of all rows was gathered."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        index = constants.get(node.input[1]) if node.op_type == "Gather" else None
        is_last = (
            index is not None and not index.external_data and numpy_helper.to_array(index).ravel().tolist() == [-1]
        )
        if not (is_last and axis == 0 and node.input[0] not in constants and hidden):
            nodes.append(node)
            continue
        name = node.output[0]
        separated = numpy_helper.from_array(np.array([batch, -1, hidden], np.int64), f"{name}.apart")
        merged = numpy_helper.from_array(np.array([-1, hidden], np.int64), f"{name}.together")
        graph.initializer.extend([separated, merged])
        nodes += [
            helper.make_node("Reshape", [node.input[0], separated.name], [f"{name}.sequences"]),
            helper.make_node("Gather", [f"{name}.sequences", node.input[1]], [f"{name}.each"], axis=1),
            helper.make_node("Reshape", [f"{name}.each", merged.name], [name]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
