"""The small models that are run to measure a device: a few sizes of each class of operator.

The weights of memory-bound cases exceed the caches, as those of a real model do: measured on weights that stay in the
cache, a product would seem several times too fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ..costmodel.op_features import OpClass
from .onnx_builder import build_model, noise

_MIN_WEIGHTS_BYTES = 128 << 20


@dataclass(frozen=True)
class OperatorCase:
    """A model that repeats one operator, and the work of each repetition."""

    name: str
    op_class: OpClass
    op_type: str
    flops: float
    """Of one repetition."""
    size_bytes: int
    """Bytes read and written by one repetition, weights included."""
    repeats: int
    shape: tuple[int, ...]
    """Of the input ``x`` (float32)."""
    output_shape: tuple[int, ...]
    build: Callable[[], bytes | Path]
    """Returns the model's ONNX bytes or file; called when needed, because some are large."""
    make_feeds: Callable[[], dict[str, np.ndarray]] | None = None
    """Returns the inputs of a model with other inputs than ``x``."""

    def feed(self) -> np.ndarray:
        """Return the input ``x``, always the same."""
        return noise(self.shape)

    def feeds(self) -> dict[str, np.ndarray]:
        """Return all inputs by name."""
        return {"x": self.feed()} if self.make_feeds is None else self.make_feeds()

    def buffers(self) -> dict[str, np.ndarray]:
        """Return a buffer for the output; none where the engine is to allocate it."""
        return {"y": np.empty(self.output_shape, np.float32)} if self.make_feeds is None else {}

    @property
    def run_cost(self) -> tuple[float, int]:
        """Operations and bytes of one run."""
        return self.flops * self.repeats, self.size_bytes * self.repeats


def standard_cases() -> list[OperatorCase]:
    """Return all cases, alternating between the classes, so that a small budget still covers every class."""
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
    return _interleave(families)


def small_cases() -> list[OperatorCase]:
    """Return smaller cases of the same classes, for simulated devices.

    A simulator takes seconds where hardware takes microseconds, and has no caches that weights would have to exceed.
    """
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
    return _interleave(families)


def contention_cases() -> list[OperatorCase]:
    """Return a compute-bound and a memory-bound case to run on two engines at once."""
    return [_matmul(256, 512, 512), _matvec(1, 1024, repeats=16)]


def _interleave(families: list[list[OperatorCase]]) -> list[OperatorCase]:
    return [case for turn in zip_longest(*families) for case in turn if case is not None]


def tiny_chain(nodes: int) -> OperatorCase:
    """Return a model of minimal operators that no engine fuses."""

    def build() -> bytes:
        made = []
        for index in range(nodes):
            op, extra = ("Softmax", {"axis": 1}) if index % 2 else ("Transpose", {"perm": [1, 0]})
            made.append(helper.make_node(op, [_value(index)], [_value(index + 1, nodes)], **extra))
        return _build(made, (4, 4), (4, 4))

    return OperatorCase(f"tiny:{nodes}", OpClass.SHAPE, "Softmax", 0.0, 0, nodes, (4, 4), (4, 4), build)


def square_matmul(size: int) -> OperatorCase:
    """Return a square matrix product, the operator that comes closest to a device's peak."""
    return _matmul(size, size, size)


def _matmul(m: int, k: int, n: int) -> OperatorCase:
    size = 4 * (m * k + k * n + m * n)
    return OperatorCase(f"matmul:{m}x{k}x{n}", OpClass.MATMUL, "MatMul", 2.0 * m * k * n, size, 1, (m, k), (m, n),
                lambda: _product_chain(m, k, n, 1))  # fmt: skip


def _matvec(m: int, n: int, repeats: int = 0) -> OperatorCase:
    repeats = repeats or min(64, -(-_MIN_WEIGHTS_BYTES // (4 * n * n)))
    size = 4 * (n * n + 2 * m * n)
    return OperatorCase(f"matvec:{m}x{n}x{n}", OpClass.MATVEC, "MatMul", 2.0 * m * n * n, size, repeats, (m, n), (m, n),
                lambda: _product_chain(m, n, n, repeats))  # fmt: skip


def _product_chain(m: int, k: int, n: int, repeats: int) -> bytes:
    base = noise((k, n)) / np.float32(k) ** 0.5
    weights = {f"w{index}": np.roll(base, index + 1) for index in range(repeats)}
    nodes = [
        helper.make_node("MatMul", [_value(index), f"w{index}"], [_value(index + 1, repeats)])
        for index in range(repeats)
    ]
    return _build(nodes, (m, k), (m, n), weights)


def _conv(inputs: int, outputs: int, side: int, kernel: int) -> OperatorCase:
    pad, shape, result = kernel // 2, (1, inputs, side, side), (1, outputs, side, side)

    def build() -> bytes:
        weight = noise((outputs, inputs, kernel, kernel)) / np.float32(inputs * kernel * kernel) ** 0.5
        node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, pads=[pad] * 4)
        return _build([node], shape, result, {"w": weight})

    weights = outputs * inputs * kernel * kernel
    size = 4 * ((inputs + outputs) * side * side + weights)
    name = f"conv:{inputs}x{outputs}x{side}x{kernel}"
    return OperatorCase(name, OpClass.CONV, "Conv", 2.0 * side * side * weights, size, 1, shape, result, build)


def _elementwise(count: int) -> OperatorCase:
    shape = (count,)

    def build() -> bytes:
        return _build([helper.make_node("Add", ["x", "w"], ["y"])], shape, shape, {"w": noise(shape)})

    return OperatorCase(
        f"elementwise:add:{count}", OpClass.ELEMENTWISE, "Add", float(count), 12 * count, 1, shape, shape, build
    )


def _layer_norm(rows: int, width: int) -> OperatorCase:
    shape = (rows, width)

    def build() -> bytes:
        node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], axis=-1)
        return _build([node], shape, shape, {"w": np.ones(width, np.float32), "b": np.zeros(width, np.float32)})

    count, size = 7.0 * rows * width, 8 * rows * width + 8 * width
    return OperatorCase(
        f"norm:layer:{rows}x{width}", OpClass.NORM, "LayerNormalization", count, size, 1, shape, shape, build
    )


def _softmax(rows: int, width: int) -> OperatorCase:
    shape = (rows, width)
    node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    count, size = 5.0 * rows * width, 8 * rows * width
    return OperatorCase(f"norm:softmax:{rows}x{width}", OpClass.NORM, "Softmax", count, size, 1, shape, shape,
                lambda: _build([node], shape, shape))  # fmt: skip


def _transpose(rows: int, width: int) -> OperatorCase:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    name, size = f"data_movement:transpose:{rows}x{width}", 8 * rows * width
    return OperatorCase(name, OpClass.DATA_MOVEMENT, "Transpose", 0.0, size, 1, (rows, width), (width, rows),
                lambda: _build([node], (rows, width), (width, rows)))  # fmt: skip


def _gather(rows: int, width: int, table: int = 8192) -> OperatorCase:
    def build() -> bytes:
        indices = np.random.default_rng(0).permutation(table)[:rows].astype(np.int64)
        node = helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
        return _build([node], (table, width), (rows, width), {"i": indices})

    name, size = f"data_movement:gather:{rows}x{width}", 8 * rows * width
    return OperatorCase(name, OpClass.DATA_MOVEMENT, "Gather", 0.0, size, 1, (table, width), (rows, width), build)


def _concat(rows: int, width: int) -> OperatorCase:
    def build() -> bytes:
        node = helper.make_node("Concat", ["x", "w"], ["y"], axis=0)
        return _build([node], (rows, width), (2 * rows, width), {"w": noise((rows, width))})

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
        return _build(nodes, shape, shape, {"scale": np.array(width**-0.5, np.float32)})

    count = float(heads * tokens * tokens * (4 * width + 5))
    size = 16 * heads * tokens * width  # queries, keys and values read, the mix written
    return OperatorCase(
        f"attention:{heads}x{tokens}x{width}", OpClass.ATTENTION, "Attention", count, size, 1, shape, shape, build
    )


def _lstm(steps: int, width: int) -> OperatorCase:
    shape, result = (steps, 1, width), (steps, 1, 1, width)

    def build() -> bytes:
        scale = np.float32(width) ** 0.5
        weights = {"w": noise((1, 4 * width, width)) / scale, "r": noise((1, 4 * width, width))[:, ::-1] / scale}
        node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=width)
        return _build([node], shape, result, weights)

    count = float(steps * (16 * width * width + 8 * width))
    size = 4 * (8 * width * width + 2 * steps * width)
    return OperatorCase(
        f"recurrent:lstm:{steps}x{width}", OpClass.RECURRENT, "LSTM", count, size, 1, shape, result, build
    )


def _value(index: int, last: int = -1) -> str:
    return "x" if index == 0 else "y" if index == last else f"t{index}"


def _build(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    return build_model(nodes, shape, output_shape, constants).SerializeToString()
