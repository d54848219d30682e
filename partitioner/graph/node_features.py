"""Features of one ONNX node: FLOPs, bytes and op class at the inferred shapes, control-flow bodies included."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures

from .flops import flops
from .ir_values import dtype_of, is_constant, shape_of, size_bytes, subgraphs
from .op_call import OpCall
from .op_class import classify

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_PICKS = frozenset({"Gather", "GatherND", "GatherElements", "GatherBlockQuantized", "Slice", "EmbedLayerNormalization"})
_INDEX_DTYPES = frozenset({"int64", "int32", "bool"})


def features(node: ir.Node) -> OpFeatures:
    """Return what one run of a node costs in operations and bytes.

    Parameters
    ----------
    node : onnx_ir.Node
        Of a model whose shapes were inferred; an unknown (data-dependent) dimension counts as 1.

    Returns
    -------
    OpFeatures
        Of the heavier branch for `If`; of the body times the number of trips, where that is known, for `Loop` and
        `Scan`.
    """
    bodies = list(subgraphs(node))
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if bodies:
        return _control_flow(node, name, bodies)
    call = OpCall(
        node.op_type,
        tuple(None if v is None else shape_of(v) for v in node.inputs),
        tuple(shape_of(v) if v.name else None for v in node.outputs),
        {key: attribute.value for key, attribute in node.attributes.items()},
    )
    operations = flops(call)
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
        node.op_type,
        operations,
        read + written,
        prod(call.output()),
        dtype_of(output) if output is not None else "float32",
    )
    return OpFeatures(name, op_class, float(operations), read, written, weights, _dtype(node))


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
    """Return how often the body of a loop runs; 1 where only the data decide."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Loop" and first is not None and is_constant(first):
        tensor = ir.convenience.get_const_tensor(first)
        return max(1, int(tensor.numpy().reshape(-1)[0])) if tensor is not None else 1
    if node.op_type == "Scan" and "num_scan_inputs" in node.attributes and node.inputs[-1] is not None:
        return max(1, (shape_of(node.inputs[-1]) or (1,))[0])
    return 1


def _dtype(node: ir.Node) -> str:
    """Return the dtype that a node computes in: that of the first tensor that holds no indices or flags."""
    tensors = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    names = [dtype_of(v) for v in tensors]
    return next((n for n in names if n not in _INDEX_DTYPES), names[-1] if names else "float32")
