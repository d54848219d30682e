"""Reads an untrusted ONNX file: checked, functions inlined, every node and tensor named.

No path, size or count in the file is trusted: external data must lie beside the model and be as long as the tensor
requires, before anything is mapped or allocated. Weights in external files stay there.
"""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from trisect.runtime.errors import InvalidModel, UnsupportedModel, UnsupportedOperator, one_line
from trisect.runtime.tensors.external_data import check_tensors, point_to, read_model
from trisect.runtime.tensors.onnx_tensors import bodies_of
from trisect.runtime.tensors.output_names import name_unread_outputs
from trisect.runtime.tensors.sparse_tensors import make_dense

from ..proto_rewrites.function_opsets import align_function_opsets, separate_function_outputs
from ..proto_rewrites.inlined_size import check_inlined_size
from ..proto_rewrites.map_types import put_map_types, take_map_types
from .surrogate_ops import has_surrogate

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # it would print names from the file as they are


def load_model(path: str | Path) -> ir.Model:
    """Read an ONNX file; weights are mapped, not loaded.

    Parameters
    ----------
    path : str or Path
        A ``.onnx`` file; external data must lie beside it (or, where the file is a link, beside its target).

    Returns
    -------
    onnx_ir.Model
        Functions inlined, nodes in topological order, every node and value named.

    Raises
    ------
    InvalidModel
        For a file that is missing, empty, truncated, not ONNX, cyclic, or whose external data is missing, too short or
        outside the model's folder.
    UnsupportedModel
        For a newer opset than the installed onnx knows.
    UnsupportedOperator
        For an operator that its ONNX opset does not have.
    """
    path = Path(path)
    proto = parse_proto(path)
    for tensor, span in check_tensors(proto, path):
        point_to(tensor, str(span.file), span.offset, span.size_bytes)
    _check_names(proto.graph, frozenset(), path.name)
    _check_functions(proto, path.name)
    check_inlined_size(proto, path.name)
    make_dense(proto, path.name)
    separate_function_outputs(proto)
    align_function_opsets(proto, path.name)
    name_unread_outputs(proto)
    _type_outputs_by_inputs(proto.graph)
    map_types = take_map_types(proto)
    try:
        model = ir.from_proto(proto)
        # Cost models know standard operators only, so model-local functions are inlined.
        InlinePass()(model)
        model.graph.sort()
    except ValueError as error:
        raise InvalidModel(f"{path.name}: {_reason(error)}", remedy="export the model again") from error
    except Exception as error:  # onnx-ir raises exceptions of several libraries
        raise InvalidModel(f"{path.name} cannot be read: {_reason(error)}", remedy="export it again") from error
    put_map_types(model.graph, map_types)
    _check_operators(model, path)
    _name_everything(model.graph)
    return model


def parse_proto(path: Path) -> onnx.ModelProto:
    """Return the parsed file, checked only to be an ONNX model of a known opset; external data is not read.

    Raises
    ------
    InvalidModel, UnsupportedModel
        As `load_model`.
    """
    proto = read_model(path)
    if not proto.HasField("graph") or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise InvalidModel(f"{path.name} is not an ONNX model", remedy="give a .onnx file")
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise UnsupportedModel(
                f"{path.name} uses opset {opset.version}; onnx {onnx.__version__} knows {newest}", remedy="upgrade onnx"
            )
    return proto


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], label: str) -> None:
    """Check that every tensor that is read is computed exactly once, in scope."""
    initialisers = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    outputs = [o for node in graph.node for o in node.output if o]
    everything = [*initialisers, *(v.name for v in graph.input), *outputs, *(v.name for v in graph.output)]
    everything += [text for node in graph.node for text in (*node.input, node.op_type, node.domain, node.name)]
    if not all(isinstance(name, str) for name in everything):
        raise InvalidModel(
            f"{label} is malformed: expected text for every name", remedy="fetch or export the model again"
        )
    in_scope = outer | set(initialisers) | {v.name for v in graph.input} | set(outputs)
    for name in sorted({n for node in graph.node for n in node.input if n} | {v.name for v in graph.output}):
        if name not in in_scope:
            raise InvalidModel(f"{label}: tensor {name!r} is read but never computed", remedy="export the model again")
    if len(set(outputs)) < len(outputs) or set(outputs) & ({v.name for v in graph.input} | set(initialisers)):
        raise InvalidModel(f"{label}: a tensor is computed twice", remedy="export the model again")
    for node in graph.node:
        for body in bodies_of(node):
            _check_names(body, in_scope, label)


def _check_functions(proto: onnx.ModelProto, label: str) -> None:
    names: set[tuple[str, str, str]] = set()
    for function in proto.functions:
        key = function.domain, function.name, function.overload
        if key in names:
            raise InvalidModel(f"{label}: function {function.name!r} is defined twice", remedy="export the model again")
        names.add(key)
        ends = [[onnx.ValueInfoProto(name=name) for name in group] for group in (function.input, function.output)]
        body = onnx.GraphProto(node=function.node, input=ends[0], output=ends[1])
        _check_names(body, frozenset(), f"{label}: function {function.name!r}")


def _check_operators(model: ir.Model, path: Path) -> None:
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "" and not onnx.defs.has(node.op_type, version, "") and not has_surrogate("", node.op_type):
            raise UnsupportedOperator(
                f"{path.name}: node {node.name!r} is a {node.op_type}, which ONNX opset {version} does not have",
                remedy="check the operator's domain",
            )
        if node.domain and node.domain not in model.graph.opset_imports:
            raise InvalidModel(
                f"{path.name}: node {node.name!r} is of the domain {node.domain!r}, which the model does not import",
                remedy="export the model again",
            )


def _type_outputs_by_inputs(graph: onnx.GraphProto) -> None:
    """Give outputs that are inputs the type of the input, with which the caller's tensor is compared."""
    types = {value.name: value.type for value in graph.input}
    for value in graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])


def _name_everything(graph: ir.Graph) -> None:
    """Name unnamed nodes of the top graph, and those whose name is taken, by operator and position: ``Add_12``."""
    taken = {node.name for node in graph if node.name}
    seen: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name
        if not name or name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken or name in seen:
                name += "_"
            node.name = name
        seen.add(name)


def _reason(error: BaseException) -> str:
    """Return the root cause of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, 200, with_kind=False)
