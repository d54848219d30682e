"""Shape, dtype, size and constness of `onnx_ir` values, and which values a node uses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod

import onnx
import onnx_ir as ir

from trisect.runtime.tensors.onnx_types import declared_spec
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec

from ..proto_rewrites.map_types import map_type
from .op_call import Shape


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the bodies of a control-flow node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def has_subgraph(node: ir.Node) -> bool:
    """Return whether a node is a control-flow node."""
    return next(subgraphs(node), None) is not None


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values of the outer graph that a node needs, each once: its inputs, and what its bodies capture."""
    seen: dict[ir.Value, None] = dict.fromkeys(v for v in node.inputs if v is not None and v.name)
    pending = list(subgraphs(node))
    while pending:
        body = pending.pop()
        inner = [v for n in body for v in n.inputs if v is not None and v.name]
        for value in [*inner, *body.outputs]:
            if value.graph is node.graph:
                seen.setdefault(value)
        pending.extend(nested for n in body for nested in subgraphs(n))
    yield from seen


def is_constant(value: ir.Value) -> bool:
    """Return whether a value is stored in the model, and so is the same at every call."""
    producer = value.producer()
    return value.const_value is not None if producer is None else producer.op_type == "Constant"


def is_cuttable(value: ir.Value) -> bool:
    """Return whether a value may cross from one segment to another: its type must be known, and transferable."""
    return isinstance(value.type, (ir.TensorType, ir.SequenceType, ir.OptionalType)) and value.dtype not in (
        None,
        ir.DataType.UNDEFINED,
    )


def shape_of(value: ir.Value) -> Shape | None:
    """Return the shape with unknown dimensions as 1; None for an unknown rank."""
    if value.const_value is not None and value.producer() is None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None:
        tensor = _constant_node_tensor(value)
        return None if tensor is None else tuple(tensor.shape.numpy())
    return tuple(d if isinstance(d, int) and d >= 0 else 1 for d in value.shape)


def dims_of(shape: ir.Shape) -> tuple[int | str, ...]:
    """Return the dimensions of a shape; one that depends on data is ``"?"``."""
    return tuple(d if isinstance(d, int) and d >= 0 else "?" for d in shape)


def spec_of(value: ir.Value) -> TensorSpec:
    """Return name, dtype and shape of a value; a dimension that depends on data is ``"?"``."""
    if (mapped := map_type(value)) is not None:
        return declared_spec(onnx.ValueInfoProto(name=value.name, type=mapped), "the model")
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        return declared_spec(ir.serde.serialize_value(value), "the model")
    return TensorSpec(str(value.name), dtype_of(value), UNKNOWN_RANK if value.shape is None else dims_of(value.shape))


def dtype_of(value: ir.Value) -> str:
    """Return numpy's name of a value's dtype; ``object`` for strings and for values that are no tensors."""
    dtype = _declared_dtype(value)
    if dtype is None:
        tensor = _constant_node_tensor(value)
        dtype = None if tensor is None else tensor.dtype
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return "object"
    return _numpy_name(dtype)


def size_bytes(value: ir.Value) -> int:
    """Return the bytes of a tensor; a string counts as a pointer of 8 bytes."""
    shape = shape_of(value)
    if shape is None:
        return 0
    dtype = _declared_dtype(value)
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return 8 * prod(shape)
    return -(-prod(shape) * int(dtype.bitwidth) // 8)


def _declared_dtype(value: ir.Value) -> ir.DataType | None:
    if value.dtype is not None:
        return value.dtype
    return value.const_value.dtype if value.const_value is not None else None


def _constant_node_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor()
    return None


@cache
def _numpy_name(dtype: ir.DataType) -> str:
    return str(dtype.numpy().name)
