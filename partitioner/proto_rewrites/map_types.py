"""Types of maps (of classifiers: class -> probability), which onnx-ir cannot hold: kept beside its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from trisect.runtime.tensors.onnx_tensors import bodies_of

_KEY = "trisect.map_type"


def has_map(declared: onnx.TypeProto) -> bool:
    """Return whether a type is a map, or contains one."""
    pending = [declared]
    while pending:
        kind = (one := pending.pop()).WhichOneof("value")
        if kind == "map_type":
            return True
        if kind in ("sequence_type", "optional_type"):
            pending.append(getattr(one, kind).elem_type)
    return False


def take_map_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Remove the types of maps from a model, in place, and return those of the top graph: name -> type."""
    taken: dict[str, onnx.TypeProto] = {}
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        holder = pending.pop()
        groups: list[Iterable[onnx.ValueInfoProto]] = [holder.value_info]
        if isinstance(holder, onnx.GraphProto):
            groups += [holder.input, holder.output]
        for value in (value for group in groups for value in group):
            if has_map(value.type):
                if holder is model.graph:
                    taken[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
                value.ClearField("type")
        for node in holder.node:
            pending += bodies_of(node)
    return taken


def put_map_types(graph: ir.Graph, types: Mapping[str, onnx.TypeProto]) -> None:
    """Attach the types of maps to the values of a graph, by name."""
    if types:
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            declared = types.get(value.name or "")
            if declared is not None:
                set_map_type(value, declared)


def set_map_type(value: ir.Value, declared: onnx.TypeProto) -> None:
    """Attach the type of a map, or of a sequence of maps, to a value."""
    value.type = value.shape = None
    value.meta[_KEY] = declared


def map_type(value: ir.Value) -> onnx.TypeProto | None:
    """Return the type of a map, or of what contains one; None for any other value."""
    declared = value.meta.get(_KEY)
    return declared if isinstance(declared, onnx.TypeProto) else None
