"""Names the outputs of nodes that nothing reads, where engines expect a name or end by a signal without one."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .onnx_tensors import bodies_of


def name_unread_outputs(model: onnx.ModelProto) -> None:
    """Name the unnamed outputs of ONNX's own operators, except optional ones, and of functions' calls, in place.

    Examples
    --------
    >>> node = onnx.helper.make_node("Split", ["x"], ["a", ""], axis=0)
    >>> graph = onnx.helper.make_graph([node], "g", [], [])
    >>> model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    >>> name_unread_outputs(model)
    >>> list(model.graph.node[0].output)
    ['a', 'unread_0']
    """
    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 1)
    if not 0 < version <= onnx.defs.onnx_opset_version():
        return
    nodes = list(_nodes(model.graph))
    functions = {(function.domain, function.name): len(function.output) for function in model.functions}
    for node in nodes:
        if (node.domain, node.op_type) in functions:
            node.output.extend([""] * (functions[node.domain, node.op_type] - len(node.output)))
    unnamed = [
        node
        for node in nodes
        if "" in node.output
        and ((node.domain, node.op_type) in functions or (not node.domain and onnx.defs.has(node.op_type, version)))
    ]
    if not unnamed:
        return
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    taken.update(value.name for value in model.graph.input)
    taken.update(tensor.name for tensor in model.graph.initializer)
    number = 0
    for node in unnamed:
        is_call = (node.domain, node.op_type) in functions
        formal = [] if is_call else onnx.defs.get_schema(node.op_type, version).outputs
        for index, name in enumerate(node.output):
            option = formal[min(index, len(formal) - 1)].option if formal else None
            if not name and option != onnx.defs.OpSchema.FormalParameterOption.Optional:
                while f"unread_{number}" in taken:
                    number += 1
                node.output[index] = f"unread_{number}"
                number += 1


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    pending = [graph]
    while pending:
        one = pending.pop()
        yield from one.node
        for node in one.node:
            pending += bodies_of(node)
