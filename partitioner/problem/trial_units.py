"""Units of a model whose results are compared between engines: nodes, each with a key that equal ones share.

A key names what decides how an engine computes: operator, attributes, dtypes, and classes of shapes and of small
constants (zero, one, more, negative, ...). So what was found out about one model holds for the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from trisect.profiles.capabilities.trial_feeds import UNLIMITED_ROLES, role_of
from trisect.profiles.capabilities.value_trials import REFERENCE_OPSET, ValueTrial
from trisect.runtime.tensors.containers import contiguous
from trisect.runtime.tensors.onnx_types import type_of
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK

from ..graph.ir_values import has_subgraph, is_cuttable, shape_of, spec_of, used_values
from ..graph.model_graph import Graph
from ..segments.segment_writer import opsets_of
from .value_ranges import ValueRanges

_SMALL_BYTES = 1024
"""A constant up to this size may decide what an operator does; a larger one is a weight."""
_LISTED_ELEMENTS_MAX = 16
_EXACT_FLOPS_MAX, _EXACT_ELEMENTS_MAX = 2e6, 1 << 17
"""Larger units are shrunk: the reference would take seconds."""
_LOOPING_OPERATORS = frozenset(
    ("AveragePool", "GridSample", "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "Resize", "RoiAlign", "Upsample")
)
_LOOPED_ELEMENTS_MAX = 1 << 12
"""Of operators whose reference computes element by element in Python."""
_WEIGHT_BYTES_MAX = 1 << 28
_SHRUNK_MIN, _SHRUNK_STEP = 8, 5
_IR_VERSION_MIN, _IR_VERSION_MAX = 8, 11


@dataclass(frozen=True)
class TrialUnit:
    """Nodes that are tried together: one, unless the value between two of them is not a tensor."""

    nodes: tuple[str, ...]
    key: str


class TrialUnits:
    """The units of a graph.

    Parameters
    ----------
    graph : Graph
    ranges : ValueRanges
    """

    def __init__(self, graph: Graph, ranges: ValueRanges) -> None:
        self._graph, self._ranges = graph, ranges

    def of_task(self, nodes: tuple[str, ...]) -> Iterator[TrialUnit]:
        """Yield the units of a task."""
        if len(nodes) > 1 and not all(self._is_separable(node) for node in nodes):
            yield TrialUnit(nodes, self._key(nodes))
            return
        for node in nodes:
            yield TrialUnit((node,), self._key((node,)))

    def kinds(self, nodes: Collection[str]) -> dict[str, str]:
        """Return value -> letters of what it may contain; see `ValueRanges.kind`. Indices and sizes are never wide."""
        kinds: dict[str, str] = {}
        for name in nodes:
            node = self._graph.nodes[name]
            for position, value in enumerate(node.inputs):
                if value is not None and value.name:
                    kind = self._ranges.kind(str(value.name))
                    role = role_of(node.op_type, position)
                    kinds[str(value.name)] = kind.replace("w", "") if role and role not in UNLIMITED_ROLES else kind
            kinds.update({str(v.name): self._ranges.kind(str(v.name)) for v in node.outputs if v.name})
        return {name: kind for name, kind in kinds.items() if kind}

    def use_reference(self, nodes: Collection[str]) -> bool:
        """Return whether the results of ONNX's reference decide whether a device is right.

        Where the shape of a result depends on values, engines
        differ at values that are unlikely to be generated. And it computes subgraphs wrongly itself.
        """
        return all(self._is_reference_reliable(self._graph.nodes[name]) for name in nodes)

    def is_old(self, nodes: Collection[str]) -> bool:
        """Return whether an operator has another definition in the oldest opset that the reference implements."""
        opset = self._opset("")
        if opset >= REFERENCE_OPSET:
            return False
        types = {self._graph.nodes[name].op_type for name in nodes}
        return any(_since(one, "", opset) != _since(one, "", REFERENCE_OPSET) for one in types)

    def model(self, nodes: tuple[str, ...], *, shrunk: bool = False) -> onnx.ModelProto | None:
        """Return nodes as a model of their own, with their constants; None where they are too large or malformed."""
        graph = self._graph
        inside = {value for name in nodes for value in graph.nodes[name].outputs}
        needed = dict.fromkeys(v for name in nodes for v in used_values(graph.nodes[name]) if v not in inside)
        if sum(self._weight_bytes(value) for value in needed) > _WEIGHT_BYTES_MAX:
            return None
        version = min(max(graph.model.ir_version or 0, _IR_VERSION_MIN), _IR_VERSION_MAX)
        model = onnx.ModelProto(ir_version=version, producer_name="trisect")
        model.graph.name = "trial"
        for domain, number in sorted(opsets_of(graph, nodes).items()):
            model.opset_import.append(onnx.helper.make_opsetid(domain, number))
        mapped = self._shrunk_dims(nodes, needed) if shrunk else {}
        for value in needed:
            constant = self._constant(value)
            if constant is None:
                model.graph.input.append(_value_info(value, mapped))
            else:
                model.graph.initializer.append(_initializer(str(value.name), constant, mapped))
        for name in nodes:
            proto = ir.serde.serialize_node(graph.nodes[name])
            proto.ClearField("metadata_props")
            for attribute in proto.attribute:
                if attribute.name == "group":
                    attribute.i = mapped.get(attribute.i, attribute.i)
            model.graph.node.append(proto)
        outputs = [value for name in nodes for value in graph.nodes[name].outputs if value.name]
        model.graph.output.extend(_value_info(value, {}, with_shape=not shrunk) for value in outputs)
        return model

    def trial(self, nodes: Collection[str], path: Path, *, use_reference: bool = True) -> ValueTrial:
        """Return the trial of a model of nodes that was written to a path."""
        use_reference = use_reference and self.use_reference(nodes)
        return ValueTrial(str(path), self.kinds(nodes), use_reference, self.is_old(nodes))

    def is_small(self, nodes: Collection[str]) -> bool:
        """Return whether ONNX's reference can compute the nodes in milliseconds."""
        values = set()
        for name in nodes:
            values |= {*used_values(self._graph.nodes[name]), *self._graph.nodes[name].outputs}
        elements = sum(prod(shape_of(value) or ()) for value in values)
        loops = any(self._graph.nodes[name].op_type in _LOOPING_OPERATORS for name in nodes)
        elements_max = _LOOPED_ELEMENTS_MAX if loops else _EXACT_ELEMENTS_MAX
        return self.flops(nodes) <= _EXACT_FLOPS_MAX and elements <= elements_max

    def flops(self, nodes: Collection[str]) -> float:
        """Return the operations of nodes."""
        return float(sum(self._graph.digraph.nodes[name]["flops"] for name in nodes))

    def _is_separable(self, name: str) -> bool:
        node = self._graph.nodes[name]
        return all(
            is_cuttable(value) or value.const_value is not None
            for value in chain(used_values(node), node.outputs)
            if value.name
        )

    def _is_reference_reliable(self, node: ir.Node) -> bool:
        if has_subgraph(node) or node.domain or _since(node.op_type, "", self._opset("")) is None:
            return False
        shapes = [value.shape for value in node.outputs if value.name and value.shape is not None]
        inputs = [v.shape for v in node.inputs if v is not None and v.shape is not None]
        return all(s.is_static() for s in shapes) or not all(s.is_static() for s in inputs)

    def _opset(self, domain: str) -> int:
        return int(self._graph.model.graph.opset_imports.get(domain, 0))

    def _constant(self, value: ir.Value) -> np.ndarray | ir.TensorProtocol | None:
        name = str(value.name)
        if name in self._graph.folded:
            return self._graph.folded[name]
        return self._graph.constants.get(name)

    def _weight_bytes(self, value: ir.Value) -> int:
        constant = self._constant(value)
        return 0 if constant is None else int(constant.nbytes)

    def _key(self, nodes: tuple[str, ...]) -> str:
        position: dict[ir.Value, int] = {}
        kinds = self.kinds(nodes)
        parts: list[str] = []
        for name in nodes:
            node = self._graph.nodes[name]
            since = _since(node.op_type, node.domain, self._opset(node.domain)) or self._opset(node.domain)
            parts.append(f"{node.domain}::{node.op_type}-{since}")
            proto = ir.serde.serialize_node(node)
            parts += sorted(_attribute(attribute) for attribute in proto.attribute)
            parts += [self._described(v, position, kinds) for v in chain(node.inputs, used_values(node))]
            parts += ["->", *(self._described(v, position, kinds) for v in node.outputs)]
        text = ";".join(parts)
        label = "+".join(dict.fromkeys(self._graph.nodes[name].op_type for name in nodes))
        return f"{label[:80]} {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _described(self, value: ir.Value | None, position: dict[ir.Value, int], kinds: Mapping[str, str]) -> str:
        if value is None or not value.name:
            return "none"
        constant = self._constant(value)
        content = "" if constant is None else _class_of(constant)
        number = position.setdefault(value, len(position))
        return f"{number}:{_described(value, kinds.get(str(value.name), ''))}{content}"

    def _shrunk_dims(self, nodes: tuple[str, ...], values: Collection[ir.Value]) -> dict[int, int]:
        """Return size -> smaller size, for the dimensions that no attribute mentions."""
        sizes: set[int] = set()
        for value in values:
            constant = self._constant(value)
            spec = spec_of(value)
            dims = _dims(constant) if constant is not None else spec.shape if spec.shape != UNKNOWN_RANK else ()
            sizes |= {dim for dim in dims if isinstance(dim, int)}
        for name in nodes:
            for attribute in self._graph.nodes[name].attributes.values():
                if attribute.type == ir.AttributeType.INTS:
                    sizes -= set(attribute.as_ints())
                elif attribute.type == ir.AttributeType.INT and attribute.name != "group":
                    sizes.discard(attribute.as_int())
        return {size: _SHRUNK_MIN + size % _SHRUNK_STEP for size in sizes if size > _SHRUNK_MIN + _SHRUNK_STEP}


@cache
def _since(op_type: str, domain: str, version: int) -> int | None:
    """Return the opset in which an operator got the definition that holds in this opset; None where it is unknown."""
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return None


def _attribute(attribute: onnx.AttributeProto) -> str:
    """Return an attribute in full; a large tensor by its dtype and shape."""
    if attribute.type == onnx.AttributeProto.TENSOR and len(attribute.t.raw_data) > _SMALL_BYTES:
        return f"{attribute.name}=weight {attribute.t.data_type} {list(attribute.t.dims)}"
    copied = onnx.AttributeProto()
    copied.CopyFrom(attribute)
    copied.ClearField("doc_string")
    return hashlib.sha256(copied.SerializeToString(deterministic=True)).hexdigest()[:16]


def _described(value: ir.Value, kind: str) -> str:
    spec = spec_of(value)
    if spec.shape == UNKNOWN_RANK:
        return f"{spec.dtype}[...]{kind}"
    return f"{spec.dtype}[{','.join(_dim_class(dim) for dim in spec.shape)}]{kind}"


def _dim_class(dim: int | str) -> str:
    return "?" if not isinstance(dim, int) else str(dim) if dim < 2 else "n"


def _dims(constant: np.ndarray | ir.TensorProtocol) -> tuple[int, ...]:
    return constant.shape if isinstance(constant, np.ndarray) else tuple(constant.shape.numpy())


def _class_of(constant: np.ndarray | ir.TensorProtocol) -> str:
    """Return the class of a constant: of each element where they are few."""
    if constant.nbytes > _SMALL_BYTES:
        return "=weight"
    array = np.asarray(constant if isinstance(constant, np.ndarray) else constant.numpy())
    if array.dtype.kind not in "biuf" and not np.issubdtype(array.dtype, np.number):
        array = array.astype(np.float32) if array.dtype.kind == "V" else array
    if array.dtype.kind in "OSUc":
        return "=text"
    classes = [_number_class(x) for x in array.reshape(-1).tolist()]
    return "=" + ",".join(classes if len(classes) <= _LISTED_ELEMENTS_MAX else sorted(set(classes)))


def _number_class(number: float) -> str:
    if number != number:
        return "nan"
    if number in (0, 1, -1):
        return str(int(number))
    magnitude = "w" if abs(number) > 2**31 - 1 else "f" if number != int(number) else "n"
    return f"-{magnitude}" if number < 0 else magnitude


def _value_info(value: ir.Value, mapped: Mapping[int, int], *, with_shape: bool = True) -> onnx.ValueInfoProto:
    spec = spec_of(value)
    info = onnx.ValueInfoProto(name=spec.name)
    info.type.CopyFrom(type_of(spec.dtype))
    if with_shape and info.type.HasField("tensor_type") and spec.shape != UNKNOWN_RANK:
        tensor = info.type.tensor_type
        tensor.shape.SetInParent()
        for dim in spec.shape:
            added = tensor.shape.dim.add()
            if isinstance(dim, int):
                added.dim_value = mapped.get(dim, dim)
    return info


def _initializer(name: str, constant: np.ndarray | ir.TensorProtocol, mapped: Mapping[int, int]) -> onnx.TensorProto:
    """Return a constant, cut to the smaller sizes; integers are sizes, axes and the like, and stay whole."""
    tensor = ir.tensor(contiguous(constant)) if isinstance(constant, np.ndarray) else constant
    dims = _dims(constant)
    if tensor.dtype == ir.DataType.STRING or not any(dim in mapped for dim in dims) or tensor.dtype.is_integer():
        if isinstance(tensor, ir.ExternalTensor):
            return onnx.TensorProto(name=name, data_type=tensor.dtype.value, dims=dims, raw_data=tensor.tobytes())
        proto = onnx.TensorProto()
        proto.CopyFrom(ir.to_proto(tensor))
        proto.name = name
        return proto
    part = np.ascontiguousarray(tensor.numpy()[tuple(slice(0, mapped.get(dim, dim)) for dim in dims)])
    return onnx.TensorProto(
        name=name, data_type=tensor.dtype.value, dims=part.shape, raw_data=ir.tensor(part, dtype=tensor.dtype).tobytes()
    )
