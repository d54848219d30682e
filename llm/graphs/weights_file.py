"""One file of weights that several ONNX graphs refer to.

A `WeightsFile` is written sequentially and never held in memory. Each weight becomes a `Linear`, a `Dense` or a
`Stacked`: its position in the file, and the form in which a graph multiplies by it. Rows of a stacked weight (Q over K
over V) are contiguous, so that one graph can use the stack and another its parts without storing anything twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from ..gguf.quantised_blocks import BlockForm

_ALIGNMENT_BYTES = 4096  # required by engines to map a tensor from the file instead of copying it
_DTYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint16): TensorProto.BFLOAT16,
    np.dtype(np.float32): TensorProto.FLOAT,
}
"""ONNX's types of stored arrays; numpy has no bfloat16, whose bytes are held as uint16."""


@dataclass(frozen=True)
class Span:
    """An array in the weights file, in row-major order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Span:
        """Return some of its rows, without copying."""
        row_bytes = self.size_bytes // self.shape[0]
        return Span(self.offset + start * row_bytes, (stop - start, *self.shape[1:]), self.dtype)

    def reshaped(self, *shape: int) -> Span:
        """Return the same bytes as an array of another shape; -1 stands for what remains."""
        known = int(np.prod([size for size in shape if size != -1]))
        full = tuple(int(np.prod(self.shape)) // known if size == -1 else size for size in shape)
        return Span(self.offset, full, self.dtype)

    def initializer(self, name: str, location: str) -> TensorProto:
        """Return an ONNX initializer that refers to this part of the file at `location`."""
        tensor = TensorProto(name=name, data_type=_DTYPES[self.dtype], dims=self.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", self.offset), ("length", self.size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


@dataclass(frozen=True)
class ScaleSpan:
    """Scales, or offsets, of blocks: ``base * factor``, which the graph multiplies when it is loaded."""

    base: Span
    """float16 or float32 [rows, n]."""
    factor: Span | None = None
    """int8 or uint8 [rows, n * m]; None = 1."""

    def rows(self, start: int, stop: int) -> ScaleSpan:
        """Return those of some rows, without copying."""
        factor = self.factor.rows(start, stop) if self.factor else None
        return ScaleSpan(self.base.rows(start, stop), factor)


@dataclass(frozen=True)
class Linear:
    """A quantised weight [rows (outputs), columns (inputs)] in blocks, for MatMulNBits; see `QuantBlocks`."""

    form: BlockForm
    data: Span
    scales: ScaleSpan
    offsets: ScaleSpan | None = None
    subtracts: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1] * self.form.block

    @property
    def size_bytes(self) -> int:
        """Bytes that an engine reads to multiply by it, with scales and offsets in float32."""
        groups = self.data.shape[0] * self.data.shape[1]
        return self.data.size_bytes + 4 * groups * (1 + self.form.has_offsets)

    def rows(self, start: int, stop: int) -> Linear:
        """Return some of its rows, without copying."""
        offsets = self.offsets.rows(start, stop) if self.offsets else None
        return Linear(self.form, self.data.rows(start, stop), self.scales.rows(start, stop), offsets, self.subtracts)


@dataclass(frozen=True)
class Dense:
    """A weight [rows (outputs), columns (inputs)] in float32, float16 or bfloat16."""

    data: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes that an engine reads to multiply by it."""
        return self.data.size_bytes

    def rows(self, start: int, stop: int) -> Dense:
        """Return some of its rows, without copying."""
        return Dense(self.data.rows(start, stop))


@dataclass(frozen=True)
class Stacked:
    """Weights of the same input in different forms, one over another."""

    parts: tuple[Linear | Dense, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes that an engine reads to multiply by it."""
        return sum(part.size_bytes for part in self.parts)

    def rows(self, start: int, stop: int) -> Weight:
        """Return some of its rows, without copying."""
        chosen: list[Linear | Dense] = []
        for part in self.parts:
            count = part.shape[0]
            if start < count and stop > 0:
                chosen.append(part.rows(max(start, 0), min(stop, count)))
            start, stop = start - count, stop - count
        return chosen[0] if len(chosen) == 1 else Stacked(tuple(chosen))


Weight = Linear | Dense | Stacked


class WeightsFile:
    """Writes arrays one after another; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.location = path.name
        self._end = 0

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, array: np.ndarray) -> Span:
        """Append an array and return its position."""
        span = self.reserve(array.shape, array.dtype)
        self.write(span, 0, array)
        return span

    def reserve(self, shape: tuple[int, ...], dtype: np.dtype) -> Span:
        """Return the position of an array to be written next, row by row."""
        span = Span(self._end + -self._end % _ALIGNMENT_BYTES, shape, dtype)
        self._end = span.offset + span.size_bytes
        return span

    def write(self, span: Span, row: int, array: np.ndarray) -> None:
        """Write some rows of a reserved array."""
        if array.dtype != span.dtype or array.shape[1:] != span.shape[1:] or row + len(array) > span.shape[0]:
            raise ValueError(f"{array.dtype} {array.shape} at row {row} does not fit into {span}")
        self._file.seek(span.offset + row * (span.size_bytes // span.shape[0]))
        # Not tofile: its errors do not distinguish a full disk.
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class GraphBuilder:
    """Collects the nodes, initializers, inputs and outputs of one ONNX graph."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._names: set[str] = set()

    def input(self, name: str, dtype: int, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: list[int | str]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, value: np.ndarray | Span) -> str:
        """Add a small array inside the graph, or a part of the weights file, once per name."""
        if name not in self._initializers:
            if isinstance(value, Span):
                self._initializers[name] = value.initializer(name, self._location)
            else:
                dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
                self._initializers[name] = helper.make_tensor(name, dtype, value.shape, value.tobytes(), raw=True)
        return name

    def has(self, name: str) -> bool:
        """Return whether a node with this output was added."""
        return name in self._names

    def node(self, op: str, inputs: list[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        """Add a node whose single output has the node's name."""
        return self.nodes(op, inputs, [name], domain=domain, **attributes)[0]

    def nodes(
        self, op: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; those named ``""`` are omitted."""
        name = next(filter(None, outputs))
        self._names.update(outputs)
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def reshaped(self, x: str, shape: list[int], name: str = "") -> str:
        """Add a reshape, named after x and the number of dimensions if it has no other name."""
        target = self.constant(f"shape.{'x'.join(map(str, shape))}", np.array(shape, np.int64))
        return self.node("Reshape", [x, target], name or f"{x}.{len(shape)}d")

    def block_sums(self, x: str, columns: int, block: int, *, batched: bool) -> str:
        """Add the sums over blocks of the last axis of x, [..., blocks], once for all weights that multiply x.

        A reduction: multiplying by a matrix of ones took 50 times as long for 8192 columns of one token.
        """
        name = f"{x}.sums.{block}"
        if not self.has(name):
            lead = [0, -1] if batched else [-1]
            shape = np.array([*lead, columns // block, block], np.int64)
            split = self.node(
                "Reshape", [x, self.constant(f"blocks.{columns}.{block}.{len(lead)}", shape)], f"{name}.blocks"
            )
            self.node("ReduceSum", [split, self.constant("last_axis", np.array([-1], np.int64))], name, keepdims=0)
        return name

    def save(self, path: Path, name: str, opset: int) -> None:
        """Write the graph, next to the weights file."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="trisect", ir_version=11)
        path.write_bytes(model.SerializeToString(deterministic=True))
