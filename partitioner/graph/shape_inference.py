"""Shapes, dtypes and small constants of every tensor in a model, at the input shapes that the user bound.

Works on a copy without weights, so that its cost does not depend on their size. Whatever only depends on shapes
(``Shape -> Gather -> Concat`` and the like) is computed here once: it feeds ``Reshape`` with numbers, which gives more
shapes, and it never has to run or travel between devices later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from trisect.runtime.errors import InvalidInput, InvalidModel, one_line

from .surrogate_ops import stand_in

LARGEST_FOLDED = 4096
"""Elements in the largest tensor that is computed beforehand."""
_INLINE_BYTES = 8 * LARGEST_FOLDED

# Exact in any engine: integers, comparisons, and float operations that IEEE 754 rounds correctly.
_FOLDABLE = frozenset(
    "Abs Add And Cast Ceil Clip Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin ReduceProd "
    "Reshape ScatterElements ScatterND Shape Sign Size Slice Split Squeeze Sub Tile Transpose Unsqueeze "
    "Where Xor".split()
)


def bind_shapes(model: ir.Model, shapes: Mapping[str, int]) -> None:
    """Give every dimension of the model's inputs a number, in place.

    Parameters
    ----------
    model : onnx_ir.Model
    shapes : mapping of str to int
        By the dimension's name, or ``input.axis`` (``x.0``) where it has none.

    Raises
    ------
    InvalidInput
        For a dimension left unbound, a name that is no dimension, a negative size.
    """
    unused = set(shapes)
    known: set[str] = set()
    symbols: dict[str, int] = {}
    for name, size in shapes.items():
        if size < 0:
            raise InvalidInput(f"--shape {name}={size} is negative", remedy="give a size of 0 or more")
    for value in real_inputs(model.graph):
        # The tensors of a sequence may all have different shapes: theirs is nobody's to bind.
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
                wanted = names[-1]
                raise InvalidInput(
                    f"dimension {axis} of input {value.name!r} is not fixed ({symbol or 'unnamed'})",
                    remedy=f"bind it with --shape {wanted}=1 (or the size that you run with)",
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
    """Inputs that a caller has to feed: not those which only declare an initialiser, as old models do."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def infer(model: ir.Model) -> dict[str, np.ndarray]:
    """Set shape and dtype of every value of the model, in place, and return the small constants.

    Parameters
    ----------
    model : onnx_ir.Model
        With bound input shapes.

    Returns
    -------
    dict of str to numpy.ndarray
        Values of the top graph that are known before anything runs: computed from shapes, constants and small
        initialisers; those of `Constant` nodes and initialisers themselves are not in it.

    Raises
    ------
    InvalidModel
        Where shape inference cannot make sense of the model.
    """
    skeleton = _Skeleton(model)
    folded: dict[str, np.ndarray] = {}
    while True:
        inferred = skeleton.inferred(folded)
        types = {v.name: v for group in (inferred.graph.value_info, inferred.graph.output) for v in group}
        more = _fold(model, folded, skeleton.small, types)
        if not more:
            break
        folded.update(more)
    _write_back(model.graph, inferred.graph)
    for name, tensor in constants(model.graph).items():
        if name in skeleton.values:
            skeleton.values[name].type = ir.TensorType(tensor.dtype)
            skeleton.values[name].shape = ir.Shape(tensor.shape.numpy())
    for name, array in folded.items():
        skeleton.values[name].shape = ir.Shape(array.shape)
        skeleton.values[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return folded


class _Skeleton:
    """The model without weights, as a proto that onnx's shape inference understands."""

    def __init__(self, model: ir.Model) -> None:
        self.values = {v.name or "": v for node in model.graph for v in node.outputs}
        self.small: dict[str, np.ndarray] = {}
        self._proto = onnx.ModelProto(ir_version=max(model.ir_version or 8, 8))
        for domain, version in model.graph.opset_imports.items():
            self._proto.opset_import.append(helper.make_opsetid(domain, version))
        graph = self._proto.graph
        graph.name = "skeleton"
        known_shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in constants(model.graph).items():
            known_shapes[name] = tuple(tensor.shape.numpy())
            graph.input.append(helper.make_tensor_value_info(name, tensor.dtype.value, known_shapes[name]))
            if tensor.nbytes <= _INLINE_BYTES and tensor.size <= LARGEST_FOLDED and tensor.dtype != ir.DataType.STRING:
                self.small[name] = tensor.numpy()
                graph.initializer.append(ir.to_proto(tensor))
                graph.initializer[-1].name = name
        graph.input.extend(ir.to_proto(value) for value in real_inputs(model.graph))
        for output in model.graph.outputs:
            if output.name in known_shapes:  # a weight that is an output too: as such it would hide its own shape
                continue
            info = graph.output.add(name=output.name)
            if output.dtype is not None and not isinstance(output.type, (ir.SequenceType, ir.OptionalType)):
                info.type.tensor_type.elem_type = output.dtype.value
            elif output.type is not None:
                info.type.CopyFrom(ir.serde.serialize_type(output.type))
        for node in model.graph:
            if node.op_type == "Constant":
                continue
            proto = ir.serde.serialize_node(node)
            made = stand_in(proto, known_shapes)
            if made is None:
                graph.node.append(proto)
                if node.domain:
                    graph.value_info.extend(ir.to_proto(v) for v in node.outputs if v.name and _is_static(v))
            else:
                graph.node.extend(made.nodes)
                graph.initializer.extend(made.initializers)
                graph.input.extend(made.placeholders)

    def inferred(self, folded: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        """Run onnx's inference with the folded values as constants."""
        proto = self._proto
        if folded:
            proto = onnx.ModelProto()
            proto.CopyFrom(self._proto)
            kept = [node for node in proto.graph.node if not all(o in folded for o in node.output if o)]
            del proto.graph.node[:]
            proto.graph.node.extend(kept)
            outputs = {o.name for o in proto.graph.output}
            proto.graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in folded.items() if name not in outputs
            )
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise InvalidModel(
                f"shape inference failed: {one_line(error, 200, with_kind=False)}", remedy="check the model and --shape"
            ) from error


def constants(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Initialisers and `Constant` nodes of a graph: value name -> tensor, not loaded."""
    found: dict[str, ir.TensorProtocol] = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            found[name] = value.const_value
    for node in graph:
        if node.op_type == "Constant" and node.domain == "":
            tensor = _constant_tensor(node)
            if tensor is not None and node.outputs[0].name:
                found[node.outputs[0].name] = tensor
    return found


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
    return None


def _fold(
    model: ir.Model,
    folded: Mapping[str, np.ndarray],
    small: Mapping[str, np.ndarray],
    types: Mapping[str, onnx.ValueInfoProto],
) -> dict[str, np.ndarray]:
    """Compute what has become computable: nodes whose inputs are all known and whose outputs are small."""
    known = {**small, **folded}
    outputs = {value.name for value in model.graph.outputs}
    fresh: dict[str, np.ndarray] = {}
    opsets = [helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items() if d == ""]
    for node in model.graph:
        names = [value.name or "" for value in node.outputs]
        if node.domain or node.op_type not in _FOLDABLE or all(n in known for n in names if n) or set(names) & outputs:
            continue
        if node.op_type in ("Shape", "Size"):
            shape = _static_shape(node.inputs[0], types, known)
            results = None if shape is None else [_shape_value(node, shape)]
        elif all(v is None or v.name in known for v in node.inputs):
            if node.op_type in ("Expand", "ConstantOfShape", "Tile", "Range") and not _small(node, known):
                continue
            feeds = {v.name: known[v.name] for v in node.inputs if v is not None and v.name}
            results = _evaluate(node, feeds, opsets)
        else:
            continue
        if results is not None and all(r.size <= LARGEST_FOLDED for r in results):
            fresh.update(zip(names, results, strict=False))
            known.update(zip(names, results, strict=False))
    return fresh


def _shape_value(node: ir.Node, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    start, end = (node.attributes[k].as_int() if k in node.attributes else None for k in ("start", "end"))
    return np.array(shape[start:end], dtype=np.int64)


def _small(node: ir.Node, known: Mapping[str, np.ndarray]) -> bool:
    """Whether an operator that can make much out of little makes little; asked before it is run."""
    arrays = [known[v.name] for v in node.inputs if v is not None and v.name]
    if node.op_type == "Range":
        start, limit, delta = (float(a) for a in arrays)
        return delta != 0 and (limit - start) / delta <= LARGEST_FOLDED
    target = np.abs(arrays[-1].astype(np.float64))
    size = float(np.prod(target))
    return size * (arrays[0].size if node.op_type in ("Expand", "Tile") else 1) <= LARGEST_FOLDED


def _evaluate(
    node: ir.Node, feeds: dict[str, np.ndarray], opsets: list[onnx.OperatorSetIdProto]
) -> list[np.ndarray] | None:
    """Run one node on ONNX's reference implementation; None where it cannot."""
    names = [v.name for v in node.outputs if v.name]
    graph = helper.make_graph(
        [ir.serde.serialize_node(node)],
        "fold",
        [onnx.ValueInfoProto(name=n) for n in feeds],
        [onnx.ValueInfoProto(name=n) for n in names],
    )
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except Exception:  # the reference lacks some dtypes and versions; the node then simply runs on a device
        return None
    return [np.asarray(r) for r in results] if all(isinstance(r, (np.ndarray, np.generic)) for r in results) else None


def _static_shape(
    value: ir.Value | None, types: Mapping[str, onnx.ValueInfoProto], known: Mapping[str, np.ndarray]
) -> tuple[int, ...] | None:
    if value is None or not value.name:
        return None
    if value.name in known:
        return known[value.name].shape
    if value.producer() is None or value.name not in types:
        return tuple(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else None
    tensor = types[value.name].type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


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
        value.type = ir.serde.deserialize_type_proto_for_type(info.type)
        value.shape = ir.serde.deserialize_type_proto_for_shape(info.type)
