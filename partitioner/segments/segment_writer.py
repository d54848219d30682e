"""Writes segments as ONNX files, and their weights once into one file that they share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
from onnx import numpy_helper

from trisect.runtime.plans.plan_parts import WEIGHTS_FILE, Segment, Transfer, Weights
from trisect.runtime.tensors.containers import contiguous
from trisect.runtime.tensors.onnx_tensors import all_tensors
from trisect.runtime.tensors.onnx_types import type_of
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec, as_nhwc

from ..graph.ir_values import has_subgraph, size_bytes, spec_of, subgraphs, used_values
from ..graph.model_graph import Graph
from ..proto_rewrites.map_types import map_type
from .boundary_layouts import add_layout_transposes
from .pieces import Piece

ALIGNMENT_BYTES = 4096
"""Tensors start at a page boundary, so that an engine can map them."""
_INLINE_BYTES = 1024
_CHUNK_BYTES = 1 << 24
_ZEROS = bytes(_CHUNK_BYTES)
_IR_VERSION_MIN = 8  # older versions require each initialiser to be declared as an input
_IR_VERSION_MAX = 11  # engines refuse files of a newer version; later versions add only dtypes
_STAGES_IR_VERSION = 11
"""The first version that records the pipeline stage of a node."""
_CONFIGURATION = "trisect"
_OPSET_MIN = 21


def write_segments(
    graph: Graph,
    pieces: Sequence[Piece],
    folder: Path,
    nhwc_tensors: Collection[str] = (),
    *,
    is_trial: bool = False,
) -> tuple[tuple[Segment, ...], tuple[Transfer, ...], Weights | None]:
    """Write each piece of the model as an ONNX file.

    Parameters
    ----------
    pieces : sequence of Piece
        In an order in which they can run; every node that is not constant in exactly one.
    folder : Path
        Empty; gets ``segment_000.onnx`` and so on, and ``weights.bin`` where there are weights of 1 KiB or more.
    nhwc_tensors : collection of str
        Tensors that cross segment boundaries in NHWC layout; see `nhwc_boundaries`.
    is_trial : bool
        Whether the files are only compiled, so that nothing has to be known of the weights file.

    Returns
    -------
    segments, transfers, weights
        For the plan.

    Raises
    ------
    OSError
        When the disk is full or not writable.
    """
    home = {name: i for i, piece in enumerate(pieces) for name in piece.nodes}
    leaving = _leaving_values(graph, home)
    segments = []
    with _WeightsWriter(folder / WEIGHTS_FILE, is_hashed=not is_trial) as weights:
        for index, piece in enumerate(pieces):
            model, inputs, outputs = _segment_model(graph, piece, index, home, leaving, weights, nhwc_tensors)
            content = model.SerializeToString(deterministic=True)
            name = f"segment_{index:03d}.onnx"
            (folder / name).write_bytes(content)
            segments.append(
                Segment(
                    index=index,
                    device=piece.device,
                    nodes=piece.nodes,
                    inputs=inputs,
                    outputs=outputs,
                    file=name,
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )
    return tuple(segments), tuple(_transfers(graph, segments)), weights.record


def _leaving_values(graph: Graph, home: dict[str, int]) -> set[ir.Value]:
    """Return the values that another segment, or the caller, reads."""
    leaving = set(graph.model.graph.outputs)
    for name, index in home.items():
        for value in used_values(graph.nodes[name]):
            producer = value.producer()
            if producer is not None and home.get(str(producer.name), index) != index:
                leaving.add(value)
    return leaving


def _segment_model(
    graph: Graph,
    piece: Piece,
    index: int,
    home: dict[str, int],
    leaving: set[ir.Value],
    weights: _WeightsWriter,
    nhwc_tensors: Collection[str],
) -> tuple[onnx.ModelProto, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    ir_version = min(max(graph.model.ir_version or 0, _IR_VERSION_MIN), _IR_VERSION_MAX)
    has_stages = ir_version >= _STAGES_IR_VERSION
    model = onnx.ModelProto(ir_version=ir_version, producer_name="trisect")
    if has_stages and piece.device:
        model.configuration.add(name=_CONFIGURATION, num_devices=1, device=[piece.device])
    for domain, version in sorted(opsets_of(graph, piece.nodes).items()):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    proto = model.graph
    proto.name = f"segment {index} on {piece.device}"
    inputs: dict[ir.Value, None] = {}
    constants: set[str] = set()
    for name in piece.nodes:
        node = graph.nodes[name]
        for value in used_values(node):
            producer = value.producer()
            if producer is not None and home.get(str(producer.name)) == index:
                continue
            if not _add_constant(graph, value, constants, proto, weights):
                inputs.setdefault(value)
        node_proto = ir.serde.serialize_node(node)
        for tensor in all_tensors(node_proto):
            weights.move(tensor)
        if has_stages and piece.device:
            del node_proto.device_configurations[:]  # the model's own, for other devices
            node_proto.device_configurations.add(configuration_id=_CONFIGURATION, pipeline_stage=index)
        proto.node.append(node_proto)
    outputs = [v for name in piece.nodes for v in graph.nodes[name].outputs if v in leaving]
    if index == 0:
        # An initialiser may be an output of the model: no node computes it, so the first segment returns it.
        for value in graph.model.graph.outputs:
            if value.producer() is None and _add_constant(graph, value, constants, proto, weights):
                outputs.append(value)
    # Engines check every branch of a subgraph, also those that are not taken at these shapes: leave dimensions open.
    fixed = not any(has_subgraph(graph.nodes[name]) for name in piece.nodes)
    transposed = [[name for v in values if (name := str(v.name)) in nhwc_tensors] for values in (inputs, outputs)]
    add_layout_transposes(proto, *transposed)
    input_specs, output_specs = (
        tuple(_boundary_spec(value, nhwc_tensors) for value in values) for values in (inputs, outputs)
    )
    proto.input.extend(_value_info(v, spec, fixed) for v, spec in zip(inputs, input_specs, strict=True))
    proto.output.extend(_value_info(v, spec, fixed) for v, spec in zip(outputs, output_specs, strict=True))
    return model, input_specs, output_specs


def _boundary_spec(value: ir.Value, nhwc_tensors: Collection[str]) -> TensorSpec:
    """Return name, dtype and shape of a value as it crosses a segment boundary."""
    spec = spec_of(value)
    return as_nhwc(spec) if spec.name in nhwc_tensors else spec


def opsets_of(graph: Graph, nodes: Iterable[str]) -> dict[str, int]:
    """Return domain -> version: the oldest ONNX opset that defines the operators of nodes as in the model.

    An engine refuses an opset that it does not know yet, even where the operators of a piece have not changed since.
    """
    opsets = dict(graph.model.graph.opset_imports)
    newest = opsets.get("", 0)
    if newest > _OPSET_MIN:
        since = [_OPSET_MIN]
        for name in nodes:
            node = graph.nodes[name]
            inner = (n for body in subgraphs(node) for n in ir.traversal.RecursiveGraphIterator(body))
            for one in (node, *inner):
                if one.domain == "":
                    if not onnx.defs.has(one.op_type, newest, ""):
                        return opsets
                    since.append(onnx.defs.get_schema(one.op_type, newest, "").since_version)
        opsets[""] = max(since)
    return opsets


def _add_constant(
    graph: Graph, value: ir.Value, added: set[str], proto: onnx.GraphProto, weights: _WeightsWriter
) -> bool:
    """Add a constant to the segment; False where the value is not constant. A copy is cheaper than any transfer."""
    name = str(value.name)
    if name in added:
        return True
    if name in graph.folded:
        proto.initializer.append(numpy_helper.from_array(contiguous(graph.folded[name]), name))
    elif name in graph.constants:
        proto.initializer.append(weights.add(name, graph.constants[name]))
    else:
        return False
    added.add(name)
    return True


def _value_info(value: ir.Value, spec: TensorSpec, fixed: bool) -> onnx.ValueInfoProto:
    """Return the type of a segment's input or output; unknown dimensions are left open, and all where not `fixed`."""
    info = onnx.ValueInfoProto(name=spec.name)
    if value.dtype in (None, ir.DataType.UNDEFINED) and map_type(value) is None:
        info.type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
        return info
    info.type.CopyFrom(type_of(spec.dtype))
    if info.type.HasField("tensor_type") and spec.shape != UNKNOWN_RANK:
        tensor = info.type.tensor_type
        tensor.shape.SetInParent()
        for dim in spec.shape:
            added = tensor.shape.dim.add()
            if fixed and isinstance(dim, int):
                added.dim_value = dim
    return info


def _transfers(graph: Graph, segments: Iterable[Segment]) -> Iterator[Transfer]:
    """Yield every tensor that crosses a segment boundary, once per segment that reads it."""
    segments = list(segments)
    maker = {spec.name: segment.index for segment in segments for spec in segment.outputs}
    values = {
        str(v.name): v for v in [*graph.model.graph.inputs, *(v for n in graph.nodes.values() for v in n.outputs)]
    }
    for segment in segments:
        for spec in segment.inputs:
            moved_bytes = size_bytes(values[spec.name])
            yield Transfer(spec.name, maker.get(spec.name, -1), segment.index, moved_bytes)
    for value in graph.model.graph.outputs:
        yield Transfer(str(value.name), maker.get(str(value.name), -1), -1, size_bytes(value))


class _WeightsWriter:
    """Writes the weights file: each tensor once, streamed and hashed."""

    def __init__(self, path: Path, *, is_hashed: bool) -> None:
        self._path, self._is_hashed = path, is_hashed
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._end = 0
        self._placed: dict[object, tuple[int, int]] = {}
        self.record: Weights | None = None

    def __enter__(self) -> _WeightsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.truncate(self._end)
            self._file.close()
            self.record = Weights(self._path.name, self._end, self._hash.hexdigest())

    def add(self, name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        """Return an initialiser for a tensor: inline where it is small, else stored in the file."""
        if tensor.dtype == ir.DataType.STRING:
            proto = onnx.TensorProto()
            proto.CopyFrom(ir.to_proto(tensor))
            proto.name = name
            return proto
        proto = onnx.TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
        if tensor.nbytes < _INLINE_BYTES:
            proto.raw_data = b"".join(_chunks(tensor))
        else:
            _point(proto, self._path.name, *self._place(_identity(tensor), _chunks(tensor)))
        return proto

    def move(self, tensor: onnx.TensorProto) -> None:
        """Move an external tensor inside a node (of a control-flow body, say) into this file, in place."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            source = (entries["location"], int(entries["offset"]), int(entries["length"]))
            _point(tensor, self._path.name, *self._place(source, _file_chunks(*source)))

    def _place(self, identity: object, chunks: Iterator[bytes | memoryview]) -> tuple[int, int]:
        """Return offset and length in the file; written only the first time."""
        if identity not in self._placed:
            if self._file is None:
                self._file = self._path.open("wb")
            self._write(b"\0" * (-self._end % ALIGNMENT_BYTES))
            start = self._end
            for chunk in chunks:
                self._write(chunk)
            self._placed[identity] = (start, self._end - start)
        return self._placed[identity]

    def _write(self, chunk: bytes | memoryview) -> None:
        assert self._file is not None
        if chunk == _ZEROS[: len(chunk)]:  # as in a stand-in for missing weights: takes no space
            self._file.seek(len(chunk), os.SEEK_CUR)
        else:
            self._file.write(chunk)
        if self._is_hashed:
            self._hash.update(chunk)
        self._end += len(chunk)


def _identity(tensor: ir.TensorProtocol) -> object:
    """Return a key that is equal for tensors with the same bytes on disk, or else for the same tensor object."""
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.path), tensor.offset or 0, tensor.length or tensor.nbytes
    return id(tensor)


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    if isinstance(tensor, ir.ExternalTensor):
        yield from _file_chunks(str(tensor.path), tensor.offset or 0, tensor.length or tensor.nbytes)
    else:
        yield tensor.tobytes()


def _file_chunks(path: str, offset: int, length: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(offset)
        while length > 0:
            chunk = file.read(min(length, _CHUNK_BYTES))
            if not chunk:
                raise OSError(f"{path} ended while it was read")
            length -= len(chunk)
            yield chunk


def _point(proto: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor refer to its bytes in the weights file."""
    proto.data_location = onnx.TensorProto.EXTERNAL
    del proto.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)
