"""One ONNX node -> its features: FLOPs, bytes and op class at the inferred shapes, control-flow bodies included."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import onnx_ir as ir

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures

from .flops import flops
from .op_call import Call, Shape
from .op_class import classify

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_PICKS = frozenset({"Gather", "GatherND", "GatherElements", "GatherBlockQuantized", "Slice", "EmbedLayerNormalization"})
_INDEX_DTYPES = frozenset({"int64", "int32", "bool"})


def features(node: ir.Node) -> OpFeatures:
    """What running the node once costs in operations and bytes.

    Parameters
    ----------
    node : onnx_ir.Node
        Of a model whose shapes were inferred; what stays unknown (a data-dependent dimension) counts as 1.

    Returns
    -------
    OpFeatures
        For `If` that of the heavier branch, for `Loop` and `Scan` the body's times the trips where those are known.
    """
    bodies = list(subgraphs(node))
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if bodies:
        return _control_flow(node, name, bodies)
    call = Call(
        node.op_type,
        tuple(None if v is None else shape_of(v) for v in node.inputs),
        tuple(shape_of(v) if v.name else None for v in node.outputs),
        {key: _plain(attribute) for key, attribute in node.attributes.items()},
    )
    work = flops(call)
    written = sum(size_bytes(v) for v in node.outputs if v.name)
    weights = sum(size_bytes(v) for v in node.inputs if v is not None and is_constant(v))
    read = sum(size_bytes(v) for v in node.inputs if v is not None)
    if node.op_type in _VIEWS:
        written = read = weights = 0
    elif node.op_type in _PICKS:
        data = node.inputs[0]
        weights = min(weights, written) if data is not None and is_constant(data) else 0
        read = written
    elif node.op_type in ("Shape", "Size", "Constant"):
        read = weights = 0
    output = node.outputs[0] if node.outputs else None
    op_class = classify(
        node.op_type, work, read + written, prod(call.output()), dtype_of(output) if output is not None else "float32"
    )
    return OpFeatures(name, op_class, float(work), read, written, weights, _dtype(node))


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of a control-flow node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def is_constant(value: ir.Value) -> bool:
    """Whether a value is the same at every call because the model holds it."""
    producer = value.producer()
    return value.const_value is not None if producer is None else producer.op_type == "Constant"


def shape_of(value: ir.Value) -> Shape | None:
    """Shape with unknown dimensions as 1; None for an unknown rank."""
    if value.const_value is not None and value.producer() is None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None:
        producer = value.producer()
        if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
            return tuple(producer.attributes["value"].as_tensor().shape.numpy())
        return None
    return tuple(d if isinstance(d, int) and d >= 0 else 1 for d in value.shape)


def dtype_of(value: ir.Value) -> str:
    """numpy's name of a value's dtype; ``object`` for strings and for what is no tensor."""
    dtype = value.dtype
    if dtype is None and value.const_value is not None:
        dtype = value.const_value.dtype
    producer = value.producer()
    if dtype is None and producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        dtype = producer.attributes["value"].as_tensor().dtype
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return "object"
    return _numpy_name(dtype)


@cache
def _numpy_name(dtype: ir.DataType) -> str:
    return str(dtype.numpy().name)


def size_bytes(value: ir.Value) -> int:
    """Bytes of a tensor; a pointer's 8 for each string."""
    shape = shape_of(value)
    if shape is None:
        return 0
    dtype = (
        value.dtype if value.dtype is not None else value.const_value.dtype if value.const_value is not None else None
    )
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return 8 * prod(shape)
    return -(-prod(shape) * int(dtype.bitwidth) // 8)


def _control_flow(node: ir.Node, name: str, bodies: list[ir.Graph]) -> OpFeatures:
    inner = [tuple(features(n) for n in body if n.op_type != "Constant") for body in bodies]
    heaviest = max(inner, key=lambda body: [sum(f.flops for f in body), sum(f.bytes_read for f in body)])
    trips = _trips(node)
    return OpFeatures(
        name,
        OpClass.CONTROL_FLOW,
        float(trips * sum(f.flops for f in heaviest)),
        trips * sum(f.bytes_read for f in heaviest),
        trips * sum(f.bytes_written for f in heaviest),
        trips * sum(f.weight_bytes for f in heaviest),
        _dtype(node),
        heaviest,
        trips,
    )


def _trips(node: ir.Node) -> int:
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Loop" and first is not None and is_constant(first):
        tensor = ir.convenience.get_const_tensor(first)
        return max(1, int(tensor.numpy().reshape(-1)[0])) if tensor is not None else 1
    if node.op_type == "Scan" and "num_scan_inputs" in node.attributes and node.inputs[-1] is not None:
        return max(1, (shape_of(node.inputs[-1]) or (1,))[0])
    return 1


def _dtype(node: ir.Node) -> str:
    tensors = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    names = [dtype_of(v) for v in tensors]
    return next((n for n in names if n not in _INDEX_DTYPES), names[-1] if names else "float32")


def _plain(attribute: ir.Attr) -> Any:
    return attribute.value
