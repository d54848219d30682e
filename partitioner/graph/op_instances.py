"""ONNX nodes as cost models see them: operator instances at their actual shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir

from trisect.profiles.costmodel.op_instance import OpInstance, OpTensor

from .ir_values import has_subgraph, shape_of, size_bytes, used_values

_LIST_LENGTH_MAX = 8


def op_instance(node: ir.Node, data: Mapping[str, Any], constants: Collection[str]) -> OpInstance:
    """Return a node as a cost model sees it.

    Parameters
    ----------
    node : onnx_ir.Node
        Of a model whose shapes were inferred.
    data : mapping of str to object
        Its attributes in `Graph.digraph`.
    constants : collection of str
        Names of tensors that are known before the model runs.
    """

    def tensor(value: ir.Value | None) -> OpTensor | None:
        if value is None or not value.name:
            return None
        return OpTensor(value.name, shape_of(value) or (), size_bytes(value), value.name in constants)

    inputs = [*node.inputs, *(value for value in used_values(node) if value not in node.inputs)]
    return OpInstance(
        str(node.name),
        node.op_type,
        tuple(tensor(value) for value in inputs),
        tuple(output for value in node.outputs if (output := tensor(value)) is not None),
        {key: value for key, a in node.attributes.items() if (value := _plain(a.value)) is not None},
        data["flops"],
        data["bytes_read"] + data["bytes_written"],
        has_subgraph(node),
    )


def _plain(value: Any) -> Any:
    """Return a number, a string or a short list of numbers as it is; None for other attributes (tensors, bodies)."""
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= _LIST_LENGTH_MAX:
        return list(value) if all(isinstance(part, (int, float)) for part in value) else None
    return None
