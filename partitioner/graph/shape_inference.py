"""Infers shape, dtype and (for small constants) value of every tensor of a model, at the given input shapes.

Inference works on a copy without weights, so that its cost does not depend on their size. What depends on shapes only
(``Shape -> Gather -> Concat`` and the like) is constant-folded: it feeds ``Reshape`` with numbers, which gives more
shapes, and it need not run, nor be transferred between devices, later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from trisect.runtime.errors import InvalidInput, InvalidModel, one_line

from ..proto_rewrites.map_types import has_map, map_type, set_map_type
from .constant_folding import FOLDED_ELEMENTS_MAX, fold, load_operators
from .isolated_inference import infer_isolated
from .surrogate_ops import has_surrogate, surrogate_of

_INLINE_BYTES = 8 * FOLDED_ELEMENTS_MAX
_ROUNDS_MAX = 100
"""What more rounds would fold runs on a device."""


def bind_shapes(model: ir.Model, shapes: Mapping[str, int]) -> None:
    """Replace every symbolic dimension of the model's inputs by a number, in place.

    Parameters
    ----------
    shapes : mapping of str to int
        By the dimension's name, or ``input.axis`` (``x.0``) where it has none.

    Raises
    ------
    InvalidInput
        For a dimension without a size, a name that is not a dimension, or a negative size.
    """
    unused = set(shapes)
    known: set[str] = set()
    symbols: dict[str, int] = {}
    for name, size in shapes.items():
        if size < 0:
            raise InvalidInput(f"invalid --shape {name}={size}: expected a size of 0 or more", remedy="correct it")
    for value in real_inputs(model.graph):
        # The tensors of a sequence may differ in shape, so that there is nothing to bind.
        if value.shape is None or not isinstance(value.type, ir.TensorType):
            continue
        dims: list[int] = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) and dim >= 0:
                dims.append(dim)
                continue
            symbol = None if isinstance(dim, int) else dim.value
            names = [name for name in (f"{value.name}.{axis}", symbol) if name]
            known.update(names)
            bound = next((name for name in names if name in shapes), None)
            if bound is None:
                raise InvalidInput(
                    f"dimension {axis} of input {value.name!r} is not fixed ({symbol or 'unnamed'})",
                    remedy=f"bind it with --shape {names[-1]}=1 (or the size that you run with)",
                )
            unused.discard(bound)
            dims.append(shapes[bound])
            if symbol:
                symbols[symbol] = shapes[bound]
        value.shape = ir.Shape(dims)
    if unused:
        there = ", ".join(sorted(known)) or "none"
        raise InvalidInput(
            f"no dimension {sorted(unused)[0]!r} in this model's inputs", remedy=f"free dimensions: {there}"
        )
    # The same symbols are declared again on outputs and inside control-flow bodies.
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for value in [*node.outputs, *(v for body in bodies for v in body.inputs)]:
            if value.shape is not None and not value.shape.is_static():
                value.shape = ir.Shape([symbols.get(str(d), d) for d in value.shape])


def real_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that a caller has to feed: not those that only declare an initialiser, as old models do."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def infer(model: ir.Model) -> dict[str, np.ndarray]:
    """Set shape and dtype of every value of a model, in place, and return the folded constants.

    Parameters
    ----------
    model : onnx_ir.Model
        With bound input shapes.

    Returns
    -------
    dict of str to numpy.ndarray
        Values of the top graph that are known before the model runs: computed from shapes, constants and small
        initialisers; `Constant` nodes and initialisers themselves are not included.

    Raises
    ------
    InvalidModel
        Where shape inference fails.
    """
    skeleton = _Skeleton(model)
    if any(node.op_type in ("Shape", "Size", "ConstantOfShape", "Range") for node in model.graph):
        load_operators()
    inferred, folded = infer_isolated(partial(_infer_and_fold, model, skeleton), skeleton.size_bytes)
    _write_back(model.graph, inferred.graph)
    for name, tensor in constants(model.graph).items():
        value = skeleton.values.get(name, model.graph.initializers.get(name))
        if value is not None:  # whatever the file declares of it
            value.type = ir.TensorType(tensor.dtype)
            value.shape = ir.Shape(tensor.shape.numpy())
    for name, array in folded.items():
        skeleton.values[name].shape = ir.Shape(array.shape)
        skeleton.values[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return folded


def _infer_and_fold(
    model: ir.Model, skeleton: _Skeleton, propagates: bool
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Infer and fold in turn: a folded shape may give more shapes, and these more to fold."""
    folded: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS_MAX):
        inferred = skeleton.inferred(folded, propagates=propagates)
        types = {v.name: v for group in (inferred.graph.value_info, inferred.graph.output) for v in group}
        more = fold(model, folded, skeleton.small, types)
        if not more:
            break
        folded.update(more)
    return skeleton.with_declared(inferred, folded, propagates=propagates), folded


class _Skeleton:
    """The model without weights, as a proto that onnx's shape inference understands."""

    def __init__(self, model: ir.Model) -> None:
        self.values = {v.name or "": v for node in model.graph for v in node.outputs}
        self.small: dict[str, np.ndarray] = {}
        self._declared: list[onnx.ValueInfoProto] = []
        self._proto = onnx.ModelProto(ir_version=max(model.ir_version or 8, 8))
        for domain, version in model.graph.opset_imports.items():
            self._proto.opset_import.append(helper.make_opsetid(domain, version))
        graph = self._proto.graph
        graph.name = "skeleton"
        known_shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in constants(model.graph).items():
            known_shapes[name] = tuple(tensor.shape.numpy())
            graph.input.append(helper.make_tensor_value_info(name, tensor.dtype.value, known_shapes[name]))
            if (
                tensor.nbytes <= _INLINE_BYTES
                and tensor.size <= FOLDED_ELEMENTS_MAX
                and tensor.dtype != ir.DataType.STRING
            ):
                self.small[name] = tensor.numpy()
                # Written out, as inference does not read external data.
                graph.initializer.append(ir.to_proto(ir.Tensor(self.small[name], dtype=tensor.dtype, name=name)))
        graph.input.extend(_declared(value) for value in real_inputs(model.graph))
        for output in model.graph.outputs:
            # A constant or an input that is an output too: as such it would hide its own shape.
            if output.producer() is None or output.name in known_shapes:
                continue
            info = graph.output.add(name=output.name)
            maker = output.producer()
            if maker is not None and not maker.domain and not has_surrogate("", maker.op_type):
                continue  # inference knows its type; that in the file may be wrong
            if output.dtype is not None and not isinstance(output.type, (ir.SequenceType, ir.OptionalType)):
                info.type.tensor_type.elem_type = output.dtype.value
            elif output.type is not None:
                info.type.CopyFrom(ir.serde.serialize_type(output.type))
            elif (mapped := map_type(output)) is not None:
                info.type.CopyFrom(mapped)
        for node in model.graph:
            if node.op_type == "Constant":
                continue
            proto = ir.serde.serialize_node(node)
            surrogate = surrogate_of(proto, known_shapes)
            if surrogate is None:
                graph.node.append(proto)
                if node.domain:
                    self._declared.extend(ir.to_proto(v) for v in node.outputs if v.name and _is_static(v))
            else:
                graph.node.extend(surrogate.nodes)
                graph.initializer.extend(surrogate.initializers)
                graph.input.extend(surrogate.placeholders)

    @property
    def size_bytes(self) -> int:
        """Size of the model without its weights."""
        return self._proto.ByteSize()

    def with_declared(
        self, inferred: onnx.ModelProto, folded: Mapping[str, np.ndarray], *, propagates: bool
    ) -> onnx.ModelProto:
        """Infer once more with the shapes that the file declares behind operators that inference does not know.

        What was inferred takes precedence; and as such shapes may be wrong, nothing is folded by them.
        """
        groups = (inferred.graph.value_info, inferred.graph.output)
        known = {v.name for group in groups for v in group if v.type.tensor_type.HasField("shape")}
        declared = [info for info in self._declared if info.name not in known]
        return self.inferred(folded, declared, propagates=propagates) if declared else inferred

    def inferred(
        self, folded: Mapping[str, np.ndarray], declared: Iterable[onnx.ValueInfoProto] = (), *, propagates: bool
    ) -> onnx.ModelProto:
        """Run ONNX's shape inference with the folded values as constants."""
        proto = self._proto
        if folded or declared:
            proto = onnx.ModelProto()
            proto.CopyFrom(self._proto)
            by_name = {info.name: info for info in declared}
            for output in proto.graph.output:
                if output.name in by_name:
                    output.type.CopyFrom(by_name.pop(output.name).type)
            proto.graph.value_info.extend(by_name.values())
            remaining = [node for node in proto.graph.node if not all(o in folded for o in node.output if o)]
            del proto.graph.node[:]
            proto.graph.node.extend(remaining)
            outputs = {o.name for o in proto.graph.output}
            proto.graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in folded.items() if name not in outputs
            )
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=propagates)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise InvalidModel(
                f"shape inference failed: {one_line(error, 200, with_kind=False)}", remedy="check the model and --shape"
            ) from error


def constants(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Return the initialisers and `Constant` nodes of a graph: value name -> tensor, not loaded into memory."""
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            tensors[name] = value.const_value
    for node in graph:
        if node.op_type == "Constant" and node.domain == "":
            tensor = _constant_tensor(node)
            if tensor is not None and node.outputs[0].name:
                tensors[node.outputs[0].name] = tensor
    return tensors


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    if "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    for key, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if key in node.attributes:
            return ir.tensor(np.array(node.attributes[key].value, dtype=dtype))
    for key in ("value_string", "value_strings"):
        if key in node.attributes:
            text = np.array(node.attributes[key].value, dtype=object)
            encoded = [one.encode() if isinstance(one, str) else one for one in text.reshape(-1).tolist()]
            return ir.StringTensor(np.array(encoded, dtype=object).reshape(text.shape), shape=ir.Shape(text.shape))
    return None


def _declared(value: ir.Value) -> onnx.ValueInfoProto:
    mapped = map_type(value)
    return ir.to_proto(value) if mapped is None else onnx.ValueInfoProto(name=value.name, type=mapped)


def _is_static(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and value.shape.is_static()


def _write_back(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    """Copy inferred types onto the values of a graph and of the bodies of its nodes."""
    types = {v.name: v for group in (inferred.value_info, inferred.output) for v in group}
    for node in graph:
        _set_types(node.outputs, types)
    bodies = {node.name: node for node in inferred.node}
    for node in graph:
        if node.name in bodies and any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        ):
            _write_back_bodies(node, bodies[node.name])


def _write_back_bodies(node: ir.Node, inferred: onnx.NodeProto) -> None:
    attributes = {a.name: a for a in inferred.attribute}
    for name, attribute in node.attributes.items():
        if attribute.type != ir.AttributeType.GRAPH:
            continue
        body, proto = attribute.as_graph(), attributes[name].g
        types = {v.name: v for group in (proto.input, proto.value_info, proto.output) for v in group}
        _set_types(body.inputs, types)
        for inner, inner_proto in zip(body, proto.node, strict=True):
            _set_types(inner.outputs, types)
            _write_back_bodies(inner, inner_proto)


def _set_types(values: Iterable[ir.Value], types: Mapping[str, onnx.ValueInfoProto]) -> None:
    for value in values:
        info = types.get(value.name or "")
        if info is None or not info.HasField("type"):
            continue
        if info.type.WhichOneof("value") is None:  # inference could not reach it: its dtype is that in the file
            value.shape = None
            continue
        if has_map(info.type):
            set_map_type(value, info.type)
            continue
        value.type = ir.serde.deserialize_type_proto_for_type(info.type)
        value.shape = ir.serde.deserialize_type_proto_for_shape(info.type)
