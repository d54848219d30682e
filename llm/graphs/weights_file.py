"""One file of weights that several ONNX graphs refer to.

A `WeightsFile` is written sequentially and never held in memory. Each weight becomes a `Linear` or a `Dense`: its
position in the file, and the form in which a graph multiplies by it. Rows of a stacked weight (Q over K over V) are
contiguous, so that one graph can use the stack and another its parts without storing anything twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from ..gguf.quantised_blocks import QuantBlocks

_ALIGNMENT_BYTES = 4096  # required by engines to map a tensor from the file instead of copying it
_DTYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.float32): TensorProto.FLOAT,
}


@dataclass(frozen=True)
class Span:
    """An array in the weights file, in row-major order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Span:
        """Return some of its rows, without copying."""
        row_bytes = self.size_bytes // self.shape[0]
        return Span(self.offset + start * row_bytes, (stop - start, *self.shape[1:]), self.dtype)

    def initializer(self, name: str, location: str) -> TensorProto:
        """Return an ONNX initializer that refers to this part of the file at `location`."""
        tensor = TensorProto(name=name, data_type=_DTYPES[self.dtype], dims=self.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", self.offset), ("length", self.size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


@dataclass(frozen=True)
class Linear:
    """A quantised weight [rows (outputs), columns (inputs)] in blocks, for MatMulNBits."""

    data: Span
    scales: Span
    bits: int
    offset: Span | None = None
    """float32 [rows, blocks], to be multiplied by the sums of the input's blocks; None = no offset."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1] * self.block

    @property
    def block(self) -> int:
        """Number of weights in a block."""
        return self.data.shape[2] * 8 // self.bits

    def rows(self, start: int, stop: int) -> Linear:
        """Return some of its rows, without copying."""
        offset = self.offset.rows(start, stop) if self.offset else None
        return Linear(self.data.rows(start, stop), self.scales.rows(start, stop), self.bits, offset)


@dataclass(frozen=True)
class Dense:
    """A weight [rows (outputs), columns (inputs)] in float32."""

    data: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1]

    def rows(self, start: int, stop: int) -> Dense:
        """Return some of its rows, without copying."""
        return Dense(self.data.rows(start, stop))


Weight = Linear | Dense


class WeightsFile:
    """Writes arrays one after another; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.location = path.name

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, array: np.ndarray) -> Span:
        """Append an array (uint8 or float32) and return its position."""
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT_BYTES))
        span = Span(self._file.tell(), array.shape, array.dtype)
        # Not tofile: its errors do not distinguish a full disk.
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return span

    def add_blocks(self, blocks: QuantBlocks) -> Linear:
        """Append a quantised weight."""
        offset = None if blocks.offset is None else self.add(blocks.offset)
        return Linear(self.add(blocks.data), self.add(blocks.scales), blocks.bits, offset)

    def add_dense(self, array: np.ndarray) -> Dense:
        """Append a float32 weight [rows, columns]."""
        return Dense(self.add(array.astype(np.float32, copy=False)))


class GraphBuilder:
    """Collects the nodes, initializers, inputs and outputs of one ONNX graph."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

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

    def node(self, op: str, inputs: list[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        """Add a node whose single output has the node's name."""
        return self.nodes(op, inputs, [name], domain=domain, **attributes)[0]

    def nodes(
        self, op: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; those named ``""`` are omitted."""
        name = next(filter(None, outputs))
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def save(self, path: Path, name: str, opset: int) -> None:
        """Write the graph, next to the weights file."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="trisect", ir_version=11)
        path.write_bytes(model.SerializeToString(deterministic=True))
