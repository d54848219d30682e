"""How a model uses an input: as indices into a table, as an argument such as a shape, or as numbers to compute with.

Generated feeds have to be valid: an index lies within its table, a shape fits its tensor. An input that the model only
computes with can have any value, and wide values show what an engine computes in fewer bits than the model asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

from .onnx_tensors import bodies_of
from .tensor_spec import TensorSpec

log = logging.getLogger(__name__)

Argument = Literal["zeros", "ones", "count", "end", "shape"]
"""Values that are valid whatever the tensor that they apply to: ``count`` is 0, 1, 2, ..., ``end`` beyond any tensor,
``shape`` one that the data can be reshaped to."""

MOVING_OPS = frozenset(
    "Cast CastLike Identity Reshape Squeeze Unsqueeze Flatten Transpose Expand Tile Concat Slice Split Gather "
    "GatherElements GatherND DepthToSpace SpaceToDepth Trilu Compress Dropout".split()
)
"""Operators whose output holds values of the first input (`Concat`: of all) unchanged."""

_INDEX_INPUTS = {
    "Gather": (1, 0), "GatherElements": (1, 0), "GatherND": (1, 0), "ScatterElements": (1, 0), "Scatter": (1, 0),
    "ScatterND": (1, 0), "GatherBlockQuantized": (1, 0), "TensorScatter": (2, 0), "MaxUnpool": (1, 0),
}  # fmt: skip
"""Operator -> positions of its indices and of the tensor that they point into."""
_EMBEDDING_INPUTS = {
    ("com.microsoft", "EmbedLayerNormalization", 0): 2,
    ("com.microsoft", "EmbedLayerNormalization", 1): 4,
    ("com.microsoft", "EmbedLayerNormalization", 8): 3,
    ("com.microsoft", "RotaryEmbedding", 1): 2,
    ("", "RotaryEmbedding", 3): 1,
}
"""Operator and position of its indices -> position of the table whose rows they name."""
_AXIS_DEFAULTS = {"Gather": 0, "GatherElements": 0, "ScatterElements": 0, "Scatter": 0, "GatherBlockQuantized": 0}
_ARGUMENTS: Mapping[tuple[str, int], Argument] = {
    ("Reshape", 1): "shape", ("Expand", 1): "ones", ("ConstantOfShape", 0): "ones", ("Tile", 1): "ones",
    ("Resize", 2): "ones", ("Resize", 3): "ones", ("Upsample", 1): "ones", ("Slice", 1): "zeros", ("Slice", 2): "end",
    ("Slice", 3): "count", ("Slice", 4): "ones", ("Range", 0): "zeros", ("Range", 1): "ones", ("Range", 2): "ones",
    ("Pad", 1): "zeros", ("Pad", 3): "count", ("TopK", 1): "ones", ("OneHot", 1): "ones", ("CumSum", 1): "zeros",
    ("Squeeze", 1): "count", ("Unsqueeze", 1): "count", ("SequenceAt", 1): "zeros", ("Loop", 0): "ones",
    ("BitShift", 1): "ones", ("CenterCropPad", 1): "ones", ("AffineGrid", 1): "ones", ("Trilu", 1): "zeros",
    ("ReverseSequence", 1): "ones", ("SplitToSequence", 1): "ones", ("SequenceErase", 1): "zeros",
    ("MelWeightMatrix", 0): "ones", ("Dropout", 1): "zeros",
}  # fmt: skip
_REDUCTIONS_AXES_POSITION = 1
_CONSTANT_ELEMENTS_MAX = 4096
_COMPARED_MAX = 4


@dataclass(frozen=True)
class InputRole:
    """What an input is used for, where that restricts its values."""

    limit: int | None = None
    """Its values are indices from 0 to this, exclusive."""
    argument: Argument | None = None
    data_shape: tuple[int, ...] | None = None
    """Shape of the tensor that an argument applies to, where it is known."""
    compared: tuple[int, ...] = ()
    """Constants that its values are compared with: a sample rate, a mode, a padding."""


class DataFlow:
    """The nodes of a model by the tensors that they read, those of control-flow bodies too.

    Parameters
    ----------
    model : onnx.ModelProto
        Weights in other files are not read.
    inputs : iterable of TensorSpec
    sizes : mapping of str to int
        Of symbolic dimensions.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> None:
        self._graph = model.graph
        self._shapes: dict[str, tuple[int, ...]] = {}
        for value in (*model.graph.value_info, *model.graph.output):
            dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.HasField("shape") and min(dims, default=0) >= 0:
                self._shapes[value.name] = tuple(dims)
        for spec in inputs:
            shape = [dim if isinstance(dim, int) else sizes.get(dim) for dim in spec.shape]
            known = tuple(dim for dim in shape if dim is not None)
            if len(known) == len(shape):
                self._shapes[spec.name] = known
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shapes |= {name: tuple(tensor.dims) for name, tensor in self._initializers.items()}

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, in an order in which a tensor is computed before it is read."""
        return list(_nodes(self._graph))

    @cached_property
    def readers(self) -> Mapping[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> the nodes that read it, each with the position of the input."""
        readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name:
                    readers.setdefault(name, []).append((node, position))
        return readers

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, where it is known without computing anything."""
        return self._shapes.get(name)

    def constant(self, name: str) -> np.ndarray | None:
        """Return a small constant; None for anything else."""
        tensor = self._initializers.get(name) or self._constant_nodes.get(name)
        if tensor is None or prod(tensor.dims) > _CONSTANT_ELEMENTS_MAX:
            return None
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:  # malformed: loading the model reports it
            log.debug("the constant %s cannot be read: %s", name, error)
            return None

    @cached_property
    def _constant_nodes(self) -> dict[str, onnx.TensorProto]:
        return {
            node.output[0]: attribute.t
            for node in self.nodes
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.name == "value"
        }

    def role(self, name: str) -> InputRole:
        """Return the role of an input, also where its values are moved, reshaped or cast first."""
        limits: list[int] = []
        compared: list[int] = []
        arguments: list[InputRole] = []
        seen, waiting = {name}, [name]
        while waiting:
            tensor = waiting.pop()
            for node, position in self.readers.get(tensor, ()):
                limit = self._index_limit(node, position)
                if limit is not None:
                    limits.append(limit)
                if node.op_type == "Equal":
                    compared += self._integers(node.input[1 - position])
                argument = _argument(node, position)
                if argument is not None:
                    is_same = tensor == name
                    arguments.append(InputRole(None, argument, self.shape(node.input[0]) if is_same else None))
                if node.op_type in MOVING_OPS and (position == 0 or node.op_type == "Concat"):
                    waiting += [output for output in node.output if output and output not in seen]
                    seen.update(node.output)
        if limits:
            return InputRole(limit=min(limits))
        return arguments[0] if arguments else InputRole(compared=tuple(dict.fromkeys(compared)))

    def _integers(self, name: str) -> list[int]:
        values = self.constant(name)
        return [] if values is None or values.dtype.kind not in "iu" else values.reshape(-1)[:_COMPARED_MAX].tolist()

    def _index_limit(self, node: onnx.NodeProto, position: int) -> int | None:
        """Return the number of rows that an input of a node points into; None where it is no index, or unknown."""
        if node.op_type == "OneHot" and position == 0 and len(node.input) > 1:
            depth = self.constant(node.input[1])
            return max(1, int(depth.reshape(-1)[0])) if depth is not None and depth.size else None
        table = _EMBEDDING_INPUTS.get((node.domain, node.op_type, position))
        if table is not None and table < len(node.input):
            rows = self.shape(node.input[table])
            return max(1, rows[0]) if rows else None
        indices = _INDEX_INPUTS.get(node.op_type)
        if indices is None or position != indices[0]:
            return None
        shape = self.shape(node.input[indices[1]])
        if not shape:
            return None
        if node.op_type not in _AXIS_DEFAULTS:
            return max(1, min(shape))
        axis = next((a.i for a in node.attribute if a.name == "axis"), _AXIS_DEFAULTS[node.op_type])
        return max(1, shape[axis]) if -len(shape) <= axis < len(shape) else None


def is_argument_or_index(node: onnx.NodeProto, position: int) -> bool:
    """Return whether an input of a node points into a tensor or says what is done with one."""
    return (
        _argument(node, position) is not None
        or _INDEX_INPUTS.get(node.op_type, (None,))[0] == position
        or (node.domain, node.op_type, position) in _EMBEDDING_INPUTS
        or (node.op_type == "OneHot" and position == 0)
    )


def _argument(node: onnx.NodeProto, position: int) -> Argument | None:
    if node.op_type.startswith("Reduce") and position == _REDUCTIONS_AXES_POSITION:
        return "count"
    return _ARGUMENTS.get((node.op_type, position))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, each after those of the graphs inside it."""
    waiting: list[Iterator[onnx.NodeProto]] = [iter(graph.node)]
    opened: list[onnx.NodeProto] = []
    while waiting:
        node = next(waiting[-1], None)
        if node is None:
            waiting.pop()
            if opened:
                yield opened.pop()
            continue
        bodies = bodies_of(node)
        if bodies:
            opened.append(node)
            waiting.append(iter([inner for body in bodies for inner in body.node]))
        else:
            yield node
