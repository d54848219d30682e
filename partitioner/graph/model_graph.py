"""The Graph: an ONNX model as a networkx graph with the cost features of each node and the tensors of each edge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx_ir as ir

from trisect.profiles.costmodel.op_instance import OpInstance
from trisect.runtime.errors import InvalidModel, TrisectError, one_line
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.scheduler.problem.task_graph import TaskGraph

from .ir_values import dims_of, is_constant, is_cuttable, size_bytes, spec_of, used_values
from .model_loading import load_model
from .node_features import features
from .op_instances import op_instance
from .paused_gc import paused_gc
from .shape_inference import bind_shapes, constants, infer, real_inputs


@dataclass(frozen=True)
class Graph:
    """An ONNX model at bound input shapes.

    ``digraph`` has one node per ONNX node, by its name, with the attributes ``op_type``, ``domain``, ``op_class``,
    ``flops``, ``bytes_read``, ``bytes_written``, ``weight_bytes``, ``dtype``, ``input_shapes``, ``output_shapes``,
    ``features`` (the cost-bearing ones as one `OpFeatures`) and ``constant`` (True where the node need not run: its
    result is known beforehand, as of `Constant` nodes and arithmetic on shapes, or is not used). An edge has
    ``tensors`` (name -> bytes), ``size_bytes`` (their sum) and ``cuttable`` (False where the type of one of them is
    unknown, so that it cannot cross from one segment to another).
    """

    path: Path
    model: ir.Model
    digraph: TaskGraph
    shapes: Mapping[str, int]
    folded: Mapping[str, np.ndarray]
    """Tensors that follow from the shapes alone: name -> value."""

    @classmethod
    @paused_gc()
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
            As `load_model`.
        InvalidInput
            For a dimension that is not bound, or does not exist.
        """
        shapes = dict(sorted((shapes or {}).items()))
        model = load_model(path)
        try:
            bind_shapes(model, shapes)
            folded = _inferred(model, Path(path).name)
            return cls(Path(path), model, _digraph(model, folded), shapes, folded)
        except TrisectError:
            raise
        except Exception as error:
            # A file can be malformed in more ways than can be listed: attributes missing, of another type, out of
            # range.
            raise InvalidModel(
                f"{Path(path).name} is malformed: {one_line(error, 200)}",
                remedy="check it with onnx.checker",
            ) from error

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Tensors that a caller feeds."""
        return tuple(spec_of(value) for value in real_inputs(self.model.graph))

    @cached_property
    def fixed_inputs(self) -> tuple[str, ...]:
        """Inputs that are declared with a default (an initialiser), and are constants here."""
        graph = self.model.graph
        return tuple(str(value.name) for value in graph.inputs if value.name in graph.initializers)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Tensors that a caller gets."""
        return tuple(spec_of(value) for value in self.model.graph.outputs)

    @cached_property
    def constants(self) -> Mapping[str, ir.TensorProtocol]:
        """Initialisers and `Constant` nodes: name -> tensor, not loaded into memory."""
        return constants(self.model.graph)

    @cached_property
    def nodes(self) -> Mapping[str, ir.Node]:
        """Name -> ONNX node, in topological order."""
        return {str(node.name): node for node in self.model.graph}

    @cached_property
    def op_instances(self) -> Mapping[str, OpInstance]:
        """Name -> the node as a cost model sees it, for the nodes that run, in topological order."""
        known = {*self.folded, *self.constants}
        return {
            name: op_instance(self.nodes[name], data, known)
            for name, data in self.digraph.nodes(data=True)
            if not data["constant"]
        }

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file, external data excluded."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _inferred(model: ir.Model, name: str) -> Mapping[str, np.ndarray]:
    try:
        return infer(model)
    except InvalidModel as error:
        raise error.with_message(f"{name}: {error.message}") from error


def _digraph(model: ir.Model, folded: Mapping[str, np.ndarray]) -> TaskGraph:
    graph: TaskGraph = nx.DiGraph()
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        node_features = features(node)
        names = [v.name for v in node.outputs if v.name]
        known = (node.op_type == "Constant" and is_constant(node.outputs[0])) or all(n in folded for n in names)
        graph.add_node(
            str(node.name),
            op_type=node.op_type,
            domain=node.domain,
            op_class=node_features.op_class,
            flops=node_features.flops,
            bytes_read=node_features.bytes_read,
            bytes_written=node_features.bytes_written,
            weight_bytes=node_features.weight_bytes,
            dtype=node_features.dtype,
            input_shapes=tuple(None if v is None or v.shape is None else dims_of(v.shape) for v in node.inputs),
            output_shapes=tuple(None if v.shape is None else dims_of(v.shape) for v in node.outputs),
            features=node_features,
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
    _mark_unused_nodes(graph, {str(maker.name) for maker in makers if maker is not None})
    return graph


def _mark_unused_nodes(graph: TaskGraph, makers: set[str]) -> None:
    """Mark nodes as constant that lead to no output, or only to values known beforehand (the shape of their result)."""
    needed: set[str] = set()
    for name in reversed(list(graph)):
        if not graph.nodes[name]["constant"] and (name in makers or not needed.isdisjoint(graph.succ[name])):
            needed.add(name)
    for name in set(graph) - needed:
        graph.nodes[name]["constant"] = True
