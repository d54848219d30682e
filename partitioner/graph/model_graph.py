"""The Graph: an ONNX model as a networkx graph that says what each node costs and what flows along each edge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx_ir as ir

from trisect.runtime.errors import InvalidModel, TrisectError, one_line
from trisect.runtime.tensors.onnx_types import spec_of as declared_spec
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from trisect.scheduler.problem.task_graph import TaskGraph

from ..planning.paused_gc import uncollected
from .model_loading import load_model
from .node_features import dtype_of, features, is_constant, size_bytes, subgraphs
from .shape_inference import bind_shapes, constants, infer, real_inputs


@dataclass(frozen=True)
class Graph:
    """An ONNX model at bound input shapes.

    ``digraph`` has one node per ONNX node, by its name, with the attributes ``op_type``, ``domain``, ``op_class``,
    ``flops``, ``bytes_read``, ``bytes_written``, ``weight_bytes``, ``dtype``, ``input_shapes``, ``output_shapes``,
    ``features`` (all of the cost-bearing ones as one `OpFeatures`) and ``constant`` (True where it need not run: its
    result is known before, as of `Constant` nodes and arithmetic on shapes, or nobody needs it). An edge has
    ``tensors`` (name -> bytes) and ``size_bytes``, their sum, and ``cuttable``, False where one of them is of unknown
    type, so that it cannot cross from one segment to another.
    """

    path: Path
    model: ir.Model
    digraph: TaskGraph
    shapes: Mapping[str, int]
    folded: Mapping[str, np.ndarray]
    """Tensors known from the shapes alone: name -> value."""

    @classmethod
    @uncollected()
    def read(cls, path: str | Path, shapes: Mapping[str, int] | None = None) -> Graph:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            A ``.onnx`` file; weights in external files are not loaded.
        shapes : mapping of str to int, optional
            Sizes of the symbolic dimensions of its inputs, by name or as ``input.axis``.

        Raises
        ------
        InvalidModel, UnsupportedModel, UnsupportedOperator
            See `load_model`.
        InvalidInput
            For a dimension that is not bound, or not there.
        """
        shapes = dict(sorted((shapes or {}).items()))
        model = load_model(path)
        try:
            bind_shapes(model, shapes)
            folded = infer(model)
            return cls(Path(path), model, _digraph(model, folded), shapes, folded)
        except TrisectError:
            raise
        except Exception as error:
            # A file can be wrong in more ways than can be listed: attributes missing, of another type, absurd numbers.
            raise InvalidModel(
                f"{Path(path).name} makes no sense: {one_line(error, 200)}",
                remedy="check it with onnx.checker",
            ) from error

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a caller feeds."""
        return tuple(spec_of(value) for value in real_inputs(self.model.graph))

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What a caller gets."""
        return tuple(spec_of(value) for value in self.model.graph.outputs)

    @cached_property
    def constants(self) -> Mapping[str, ir.TensorProtocol]:
        """Initialisers and `Constant` nodes: name -> tensor, not loaded."""
        return constants(self.model.graph)

    @cached_property
    def nodes(self) -> Mapping[str, ir.Node]:
        """Name -> ONNX node, in topological order."""
        return {str(node.name): node for node in self.model.graph}

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file (not of external data)."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Values of the outer graph that a node needs: its inputs and what its bodies capture, each once."""
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


def spec_of(value: ir.Value) -> TensorSpec:
    """Name, dtype and shape of a value; a dimension that depends on data is ``"?"``."""
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        return declared_spec(ir.serde.serialize_value(value), "the model")
    return TensorSpec(str(value.name), dtype_of(value), UNKNOWN_RANK if value.shape is None else _dims(value.shape))


def is_cuttable(value: ir.Value) -> bool:
    """Whether a value can cross from one segment to another: whether its type is known, and one that is carried."""
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        return value.dtype not in (None, ir.DataType.UNDEFINED)
    return isinstance(value.type, ir.TensorType) and value.dtype not in (None, ir.DataType.UNDEFINED)


def _digraph(model: ir.Model, folded: Mapping[str, np.ndarray]) -> TaskGraph:
    graph: TaskGraph = nx.DiGraph()
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        found = features(node)
        names = [v.name for v in node.outputs if v.name]
        known = (node.op_type == "Constant" and is_constant(node.outputs[0])) or all(n in folded for n in names)
        graph.add_node(
            str(node.name),
            op_type=node.op_type,
            domain=node.domain,
            op_class=found.op_class,
            flops=found.flops,
            bytes_read=found.bytes_read,
            bytes_written=found.bytes_written,
            weight_bytes=found.weight_bytes,
            dtype=found.dtype,
            input_shapes=tuple(None if v is None or v.shape is None else _dims(v.shape) for v in node.inputs),
            output_shapes=tuple(None if v.shape is None else _dims(v.shape) for v in node.outputs),
            features=found,
            constant=known and not set(names) & outputs,
        )
        for value in used_values(node):
            producer = value.producer()
            if producer is None:
                continue
            ends = str(producer.name), str(node.name)
            edge = edges.get(ends)
            if edge is None:
                edge = edges[ends] = {"tensors": {}, "size_bytes": 0, "cuttable": True}
            size = size_bytes(value)
            edge["tensors"][value.name] = size
            edge["size_bytes"] += size
            edge["cuttable"] = edge["cuttable"] and is_cuttable(value)
    graph.add_edges_from((source, target, data) for (source, target), data in edges.items())
    makers = (value.producer() for value in model.graph.outputs)
    _spare_what_nobody_needs(graph, {str(maker.name) for maker in makers if maker is not None})
    return graph


def _spare_what_nobody_needs(graph: TaskGraph, makers: set[str]) -> None:
    """Nodes that lead to no output, or only to what is known beforehand (the shape of what they make), need not run."""
    needed: set[str] = set()
    for name in reversed(list(graph)):
        if not graph.nodes[name]["constant"] and (name in makers or not needed.isdisjoint(graph.succ[name])):
            needed.add(name)
    for name in set(graph) - needed:
        graph.nodes[name]["constant"] = True


def _dims(shape: ir.Shape) -> tuple[int | str, ...]:
    return tuple(d if isinstance(d, int) and d >= 0 else "?" for d in shape)
