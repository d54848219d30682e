"""The small models that are run to measure a device: a few sizes of each class of operator.

Weights of the memory-bound cases fill more than the caches, as those of a real model do: a product measured on weights
that stay in the cache promises several times what a model will see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..costmodel.op_features import OpClass

_OPSET = 18
_PAST_CACHES_BYTES = 128 << 20


@dataclass(frozen=True)
class OperatorCase:
    """A model that repeats one operator, and how much work each repetition is."""

    name: str
    op_class: OpClass
    op_type: str
    flops: float
    """Of one repetition."""
    size_bytes: int
    """Read and written by one repetition, weights included."""
    repeats: int
    shape: tuple[int, ...]
    """Of the input ``x`` (float32)."""
    output_shape: tuple[int, ...]
    build: Callable[[], bytes | Path]
    """The model's ONNX bytes or file; made when needed, because some are large."""
    given: Callable[[], dict[str, np.ndarray]] | None = None
    """Inputs of a model that has other ones than ``x``."""

    def feed(self) -> np.ndarray:
        """The input ``x``, always the same."""
        return _noise(self.shape)

    def feeds(self) -> dict[str, np.ndarray]:
        """Every input."""
        return {"x": self.feed()} if self.given is None else self.given()

    def buffers(self) -> dict[str, np.ndarray]:
        """Where the output goes; empty where the engine is to make room for it."""
        return {"y": np.empty(self.output_shape, np.float32)} if self.given is None else {}

    @property
    def weight(self) -> tuple[float, int]:
        """Operations and bytes of one run."""
        return self.flops * self.repeats, self.size_bytes * self.repeats


def standard_cases() -> list[OperatorCase]:
    """All cases, one of each class after the other, so that a small budget still covers every class."""
    families = [
        [_matmul(m, n, n) for m, n in ((128, 512), (512, 1024), (64, 256), (256, 2048), (32, 1024))],
        [_matvec(m, n) for m, n in ((1, 1024), (1, 4096), (1, 512), (4, 2048), (1, 256))],
        [_conv(*sizes) for sizes in ((32, 32, 56, 3), (128, 128, 28, 1), (128, 128, 14, 3), (3, 32, 112, 3))],
        [_elementwise(n) for n in (1 << 16, 1 << 21, 1 << 12)],
        [_layer_norm(128, 576), _softmax(512, 512), _layer_norm(8, 256), _softmax(4096, 512)],
        [_transpose(256, 256), _gather(128, 576), _transpose(1024, 2048), _concat(64, 1024), _gather(4, 576)],
        [_attention(8, 128, 64), _attention(8, 512, 64), _attention(4, 32, 64)],
        [_lstm(16, 128), _lstm(32, 256)],
    ]
    return _in_turns(families)


def small_cases() -> list[OperatorCase]:
    """The same classes for a device that is no hardware: what a processor plays takes seconds where a chip takes
    microseconds, and has no caches that weights would have to outgrow."""
    families = [
        [_matmul(*sizes) for sizes in ((64, 256, 256), (32, 128, 128), (128, 512, 512))],
        [_matvec(m, n, repeats=1) for m, n in ((1, 256), (1, 1024), (4, 256))],
        [_conv(*sizes) for sizes in ((32, 32, 28, 3), (64, 64, 14, 1), (128, 128, 14, 3))],
        [_elementwise(n) for n in (1 << 12, 1 << 16)],
        [_layer_norm(8, 256), _softmax(32, 128), _softmax(128, 512)],
        [_transpose(64, 64), _concat(16, 256), _gather(4, 64, table=512), _transpose(256, 256)],
        [_attention(4, 32, 64), _attention(8, 64, 64)],
        [_lstm(4, 64), _lstm(16, 128)],
    ]
    return _in_turns(families)


def contention_cases() -> list[OperatorCase]:
    """What two engines are run with at once: work that wants the cores, and work that wants the memory."""
    return [_matmul(256, 512, 512), _matvec(1, 1024, repeats=16)]


def _in_turns(families: list[list[OperatorCase]]) -> list[OperatorCase]:
    return [case for turn in zip_longest(*families) for case in turn if case is not None]


def tiny_chain(nodes: int) -> OperatorCase:
    """A model of so many operators that have next to nothing to do and that no engine merges."""

    def build() -> bytes:
        made = []
        for index in range(nodes):
            op, extra = ("Softmax", {"axis": 1}) if index % 2 else ("Transpose", {"perm": [1, 0]})
            made.append(helper.make_node(op, [_value(index)], [_value(index + 1, nodes)], **extra))
        return _model(made, (4, 4), (4, 4))

    return OperatorCase(f"tiny:{nodes}", OpClass.SHAPE, "Softmax", 0.0, 0, nodes, (4, 4), (4, 4), build)


def square_matmul(size: int) -> OperatorCase:
    """One large square matrix product: the nearest that a device comes to its roof."""
    return _matmul(size, size, size)


def _matmul(m: int, k: int, n: int) -> OperatorCase:
    size = 4 * (m * k + k * n + m * n)
    return OperatorCase(f"matmul:{m}x{k}x{n}", OpClass.MATMUL, "MatMul", 2.0 * m * k * n, size, 1, (m, k), (m, n),
                lambda: _product_chain(m, k, n, 1))  # fmt: skip


def _matvec(m: int, n: int, repeats: int = 0) -> OperatorCase:
    repeats = repeats or min(64, -(-_PAST_CACHES_BYTES // (4 * n * n)))
    size = 4 * (n * n + 2 * m * n)
    return OperatorCase(f"matvec:{m}x{n}x{n}", OpClass.MATVEC, "MatMul", 2.0 * m * n * n, size, repeats, (m, n), (m, n),
                lambda: _product_chain(m, n, n, repeats))  # fmt: skip


def _product_chain(m: int, k: int, n: int, repeats: int) -> bytes:
    base = _noise((k, n)) / np.float32(k) ** 0.5
    weights = {f"w{index}": np.roll(base, index + 1) for index in range(repeats)}
    nodes = [
        helper.make_node("MatMul", [_value(index), f"w{index}"], [_value(index + 1, repeats)])
        for index in range(repeats)
    ]
    return _model(nodes, (m, k), (m, n), weights)


def _conv(inputs: int, outputs: int, side: int, kernel: int) -> OperatorCase:
    pad, shape, result = kernel // 2, (1, inputs, side, side), (1, outputs, side, side)

    def build() -> bytes:
        weight = _noise((outputs, inputs, kernel, kernel)) / np.float32(inputs * kernel * kernel) ** 0.5
        node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, pads=[pad] * 4)
        return _model([node], shape, result, {"w": weight})

    weights = outputs * inputs * kernel * kernel
    size = 4 * ((inputs + outputs) * side * side + weights)
    name = f"conv:{inputs}x{outputs}x{side}x{kernel}"
    return OperatorCase(name, OpClass.CONV, "Conv", 2.0 * side * side * weights, size, 1, shape, result, build)


def _elementwise(count: int) -> OperatorCase:
    shape = (count,)

    def build() -> bytes:
        return _model([helper.make_node("Add", ["x", "w"], ["y"])], shape, shape, {"w": _noise(shape)})

    return OperatorCase(
        f"elementwise:add:{count}", OpClass.ELEMENTWISE, "Add", float(count), 12 * count, 1, shape, shape, build
    )


def _layer_norm(rows: int, width: int) -> OperatorCase:
    shape = (rows, width)

    def build() -> bytes:
        node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], axis=-1)
        return _model([node], shape, shape, {"w": np.ones(width, np.float32), "b": np.zeros(width, np.float32)})

    count, size = 7.0 * rows * width, 8 * rows * width + 8 * width
    return OperatorCase(
        f"norm:layer:{rows}x{width}", OpClass.NORM, "LayerNormalization", count, size, 1, shape, shape, build
    )


def _softmax(rows: int, width: int) -> OperatorCase:
    shape = (rows, width)
    node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    count, size = 5.0 * rows * width, 8 * rows * width
    return OperatorCase(f"norm:softmax:{rows}x{width}", OpClass.NORM, "Softmax", count, size, 1, shape, shape,
                lambda: _model([node], shape, shape))  # fmt: skip


def _transpose(rows: int, width: int) -> OperatorCase:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    name, size = f"data_movement:transpose:{rows}x{width}", 8 * rows * width
    return OperatorCase(name, OpClass.DATA_MOVEMENT, "Transpose", 0.0, size, 1, (rows, width), (width, rows),
                lambda: _model([node], (rows, width), (width, rows)))  # fmt: skip


def _gather(rows: int, width: int, table: int = 8192) -> OperatorCase:
    def build() -> bytes:
        indices = np.random.default_rng(0).permutation(table)[:rows].astype(np.int64)
        node = helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
        return _model([node], (table, width), (rows, width), {"i": indices})

    name, size = f"data_movement:gather:{rows}x{width}", 8 * rows * width
    return OperatorCase(name, OpClass.DATA_MOVEMENT, "Gather", 0.0, size, 1, (table, width), (rows, width), build)


def _concat(rows: int, width: int) -> OperatorCase:
    def build() -> bytes:
        node = helper.make_node("Concat", ["x", "w"], ["y"], axis=0)
        return _model([node], (rows, width), (2 * rows, width), {"w": _noise((rows, width))})

    name, size = f"data_movement:concat:{rows}x{width}", 16 * rows * width
    return OperatorCase(name, OpClass.DATA_MOVEMENT, "Concat", 0.0, size, 1, (rows, width), (2 * rows, width), build)


def _attention(heads: int, tokens: int, width: int) -> OperatorCase:
    shape = (1, heads, tokens, width)

    def build() -> bytes:
        nodes = [
            helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["x", "k"], ["scores"]),
            helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
            helper.make_node("Softmax", ["scaled"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "x"], ["y"]),
        ]
        return _model(nodes, shape, shape, {"scale": np.array(width**-0.5, np.float32)})

    count = float(heads * tokens * tokens * (4 * width + 5))
    size = 16 * heads * tokens * width  # queries, keys and values read, the mix written
    return OperatorCase(
        f"attention:{heads}x{tokens}x{width}", OpClass.ATTENTION, "Attention", count, size, 1, shape, shape, build
    )


def _lstm(steps: int, width: int) -> OperatorCase:
    shape, result = (steps, 1, width), (steps, 1, 1, width)

    def build() -> bytes:
        scale = np.float32(width) ** 0.5
        weights = {"w": _noise((1, 4 * width, width)) / scale, "r": _noise((1, 4 * width, width))[:, ::-1] / scale}
        node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=width)
        return _model([node], shape, result, weights)

    count = float(steps * (16 * width * width + 8 * width))
    size = 4 * (8 * width * width + 2 * steps * width)
    return OperatorCase(
        f"recurrent:lstm:{steps}x{width}", OpClass.RECURRENT, "LSTM", count, size, 1, shape, result, build
    )


def _value(index: int, last: int = -1) -> str:
    return "x" if index == 0 else "y" if index == last else f"t{index}"


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers around zero; a block repeated, because drawing millions of them would take longer than measuring."""
    block = np.random.default_rng(0).standard_normal(65_521).astype(np.float32)
    return np.resize(block, shape)


def _model(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    result: tuple[int, ...],
    weights: dict[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "measure",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        list(_initializers(weights or {})),
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", _OPSET)]).SerializeToString()


def _initializers(weights: dict[str, np.ndarray]) -> Iterator[onnx.TensorProto]:
    for name, array in weights.items():
        yield onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
