"""Describes an ONNX file, with or without its weights; the graph is assessed in the same way.

Missing weights are replaced by zeros of the same size in a sparse file, which takes no space on the disk.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from trisect.partitioner.graph.model_loading import parse_proto
from trisect.runtime.errors import InvalidModel, StorageFailed
from trisect.runtime.printable_text import utf8_text
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.onnx_tensors import all_tensors

from .model_description import ModelDescription

_WEIGHTS = "weights"
_MAX_WEIGHT_BYTES = 1 << 44


def from_onnx(path: Path) -> ModelDescription:
    """Describe an ONNX file.

    Raises
    ------
    InvalidModel, UnsupportedModel
        For a file that is not an ONNX model, is damaged, or is of a newer version.
    """
    proto = parse_proto(path)
    tensors = list(all_tensors(proto))
    missing = [tensor for tensor in tensors if _lacks_data(tensor, path.parent)]
    folder = None
    graph = path
    if missing:
        folder = ScratchFolder("weightless")
        graph = folder.path / path.name
        _write_with_zeros(proto, tensors, graph)
    return ModelDescription(
        kind="ONNX without weights" if missing else "ONNX",
        name=utf8_text(path.name),
        confidence="high",
        graph=graph,
        weight_bytes=sum(_size_bytes(tensor) for tensor in tensors),
        key=structure_key(proto),
        temporary_folder=folder,
    )


def structure_key(proto: onnx.ModelProto) -> str:
    """Return a hash of everything except the values of the weights: equal for a model with and without them."""
    digest = hashlib.sha256()
    for opset in proto.opset_import:
        digest.update(f"{opset.domain}:{opset.version};".encode())
    for value in (*proto.graph.input, *proto.graph.output):
        digest.update(value.SerializeToString(deterministic=True))
    for tensor in proto.graph.initializer:
        digest.update(f"{tensor.name}:{tensor.data_type}:{list(tensor.dims)};".encode())
    for node in proto.graph.node:
        for tensor in (attribute.t for attribute in node.attribute if attribute.HasField("t")):
            digest.update(f"{tensor.data_type}:{list(tensor.dims)};".encode())
        digest.update("|".join((node.domain, node.op_type, *node.input, "->", *node.output)).encode())
        digest.update(b"".join(a.SerializeToString(deterministic=True) for a in node.attribute if not a.HasField("t")))
    return digest.hexdigest()


def _lacks_data(tensor: onnx.TensorProto, folder: Path) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        return bool(location) and not (folder / location).exists()
    if tensor.raw_data or tensor.data_type == onnx.TensorProto.STRING:
        return False
    filled = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return _size_bytes(tensor) > 0 and not any(len(getattr(tensor, name)) for name in filled)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= max(0, dim)
        if count > _MAX_WEIGHT_BYTES:
            raise InvalidModel(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} is too large", remedy="do not trust this model"
            )
    try:
        bits = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8)
    except (KeyError, ValueError, TypeError):
        return 0
    return -(-count * bits // 8)


def _write_with_zeros(proto: onnx.ModelProto, tensors: list[onnx.TensorProto], graph: Path) -> None:
    """Write the model with zeros for every weight that is external or missing."""
    offset = 0
    for tensor in tensors:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not external and not _lacks_data(tensor, graph.parent):
            continue
        size_bytes = _size_bytes(tensor)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", _WEIGHTS), ("offset", str(offset)), ("length", str(size_bytes))):
            tensor.external_data.add(key=key, value=value)
        offset += -(-size_bytes // 4096) * 4096
        if offset > _MAX_WEIGHT_BYTES:
            raise InvalidModel(
                f"{graph.name} claims more than {_MAX_WEIGHT_BYTES} bytes of weights", remedy="do not trust this model"
            )
    try:
        with (graph.parent / _WEIGHTS).open("wb") as file:
            file.truncate(offset)  # takes no space on the disk
        graph.write_bytes(proto.SerializeToString())
    except OSError as error:
        raise StorageFailed(
            f"no file can stand in for the {offset / 1e9:.3g} GB of weights that {graph.name} lacks: {error.strerror}",
            remedy="set TMPDIR to a folder that can be written to",
        ) from error
