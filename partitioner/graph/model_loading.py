"""Reads an untrusted ONNX file: checked, functions inlined, every node and tensor named.

No path, size or count in the file is trusted: external data must lie beside the model and be as long as the tensor
requires, before anything is mapped or allocated. Weights in external files stay there.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass

from trisect.runtime.errors import InvalidModel, UnsupportedModel, UnsupportedOperator, one_line
from trisect.runtime.tensors.onnx_tensors import all_tensors

from ..proto_rewrites.function_opsets import align_function_opsets
from ..proto_rewrites.map_types import put_map_types, take_map_types
from ..proto_rewrites.sparse_tensors import make_dense
from .surrogate_ops import has_surrogate

_FILE_BYTES_MAX = 2**31 - 1


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
    for tensor in all_tensors(proto):
        _check_tensor(tensor, path)
    _check_names(proto.graph, frozenset(), path)
    make_dense(proto, path.name)
    align_function_opsets(proto, path.name)
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
    try:
        size_bytes = path.stat().st_size
        if not path.is_file():
            raise InvalidModel(f"{path} is not a file", remedy="give the .onnx file itself")
        if size_bytes == 0:
            raise InvalidModel(f"{path.name} is empty", remedy="fetch or export it again")
        if size_bytes > _FILE_BYTES_MAX:
            raise InvalidModel(
                f"{path.name} is over 2 GiB, more than one ONNX file can hold",
                remedy="save its weights as external data",
            )
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise InvalidModel(f"no model at {path}", remedy="check the path") from None
    except OSError as error:
        raise InvalidModel(
            f"{path} cannot be read: {error.strerror}", remedy="check the path and its permissions"
        ) from error
    except DecodeError:
        raise InvalidModel(
            f"{path.name} is not an ONNX model, or is cut short", remedy="fetch or export it again"
        ) from None
    if not proto.HasField("graph") or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise InvalidModel(f"{path.name} is not an ONNX model", remedy="give a .onnx file")
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise UnsupportedModel(
                f"{path.name} uses opset {opset.version}; onnx {onnx.__version__} knows {newest}", remedy="upgrade onnx"
            )
    return proto


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse sizes that do not match; point external tensors at the checked, resolved file."""
    where = f"{path.name}: tensor {tensor.name!r}"
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise InvalidModel(f"{where} has the dimension {dim}", remedy="export the model again")
        count *= dim
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        raise InvalidModel(f"{where} has the unknown dtype {tensor.data_type}", remedy="upgrade onnx") from None
    if dtype == ir.DataType.UNDEFINED:
        raise InvalidModel(f"{where} has no dtype", remedy="export the model again")
    size_bytes = 0 if dtype == ir.DataType.STRING else -(-count * int(dtype.bitwidth) // 8)
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") and dtype != ir.DataType.STRING and len(tensor.raw_data) != size_bytes:
            raise InvalidModel(
                f"{where} holds {len(tensor.raw_data)} bytes where its shape needs {size_bytes}",
                remedy="fetch or export the model again",
            )
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if count == 0:  # nothing to read: writers leave out keys, or point behind the end of the file
        _resolved(location, path, where)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""
        return
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size_bytes))
    except ValueError:
        raise InvalidModel(
            f"{where} has an external offset that is not a number", remedy="export the model again"
        ) from None
    file = _external_file(location, path, where)
    if offset < 0 or length != size_bytes or offset + length > file.stat().st_size:
        raise InvalidModel(
            f"{where} needs {size_bytes} bytes at {offset} of {file.name}, which has {file.stat().st_size}",
            remedy="fetch the model and its data again",
        )
    del tensor.external_data[:]
    for key, value in (("location", str(file)), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _external_file(location: str, path: Path, where: str) -> Path:
    """Return the file of an external location, which must be there."""
    file = _resolved(location, path, where)
    if not file.is_file() or not os.access(file, os.R_OK):
        raise InvalidModel(
            f"{where} needs the file {location!r}, which is missing", remedy=f"put it beside {path.name}"
        )
    return file


def _resolved(location: str, path: Path, where: str) -> Path:
    """Return the path of an external location, which must lie in the model's own folder or below it."""
    # Download caches store a model and its data as links into one folder: the folder of a link's target counts, too.
    folders = {path.parent.resolve(), path.resolve().parent}
    relative = Path(location.replace("\\", "/"))
    inside = location and not relative.is_absolute() and ".." not in relative.parts
    file = (path.parent / relative).resolve()
    if not inside or not any(file.is_relative_to(folder) for folder in folders):
        raise InvalidModel(
            f"{where} points outside the model's folder, at {location!r}", remedy="do not trust this model"
        )
    return file


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], path: Path) -> None:
    """Check that every tensor that is read is computed exactly once, in scope."""
    initialisers = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    outputs = [o for node in graph.node for o in node.output if o]
    everything = [*initialisers, *(v.name for v in graph.input), *outputs, *(v.name for v in graph.output)]
    everything += [text for node in graph.node for text in (*node.input, node.op_type, node.domain, node.name)]
    if not all(isinstance(name, str) for name in everything):
        raise InvalidModel(
            f"{path.name} is malformed: expected text for every name", remedy="fetch or export the model again"
        )
    in_scope = outer | set(initialisers) | {v.name for v in graph.input} | set(outputs)
    for name in sorted({n for node in graph.node for n in node.input if n} | {v.name for v in graph.output}):
        if name not in in_scope:
            raise InvalidModel(
                f"{path.name}: tensor {name!r} is read but never computed", remedy="export the model again"
            )
    if len(set(outputs)) < len(outputs) or set(outputs) & ({v.name for v in graph.input} | set(initialisers)):
        raise InvalidModel(f"{path.name}: a tensor is computed twice", remedy="export the model again")
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_names(body, in_scope, path)


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
