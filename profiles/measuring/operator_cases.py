"""The small models that are run to measure a device: a few sizes of each class of operator.

The weights of memory-bound cases exceed the caches, as those of a real model do: measured on weights that stay in the
cache, a product would seem several times too fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import prod
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
        [elementwise(n) for n in (1 << 16, 1 << 21, 1 << 12)],
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
        [elementwise(n) for n in (1 << 12, 1 << 16)],
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
    chain = []
    for index in range(nodes):
        op, attributes = ("Softmax", {"axis": 1}) if index % 2 else ("Transpose", {"perm": [1, 0]})
        chain.append(helper.make_node(op, [_tensor_name(index)], [_tensor_name(index + 1, nodes)], **attributes))
    case = _case(f"tiny:{nodes}", OpClass.SHAPE, "Softmax", 0.0, 0, (4, 4), (4, 4), chain)
    return replace(case, repeats=nodes)


def square_matmul(size: int) -> OperatorCase:
    """Return a square matrix product, the operator that comes closest to a device's peak."""
    return _matmul(size, size, size)


def _case(
    name: str,
    op_class: OpClass,
    op_type: str,
    flops: float,
    size_bytes: int,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    nodes: Sequence[onnx.NodeProto],
    constants: Callable[[], dict[str, np.ndarray]] = dict,
) -> OperatorCase:
    def build() -> bytes:
        return build_model(nodes, shape, output_shape, constants()).SerializeToString()

    return OperatorCase(name, op_class, op_type, flops, size_bytes, 1, shape, output_shape, build)


def _matmul(m: int, k: int, n: int) -> OperatorCase:
    size = 4 * (m * k + k * n + m * n)
    return _product_chain(f"matmul:{m}x{k}x{n}", OpClass.MATMUL, size, m, k, n, 1)


def _matvec(m: int, n: int, repeats: int = 0) -> OperatorCase:
    repeats = repeats or min(64, -(-_MIN_WEIGHTS_BYTES // (4 * n * n)))
    size = 4 * (n * n + 2 * m * n)
    return _product_chain(f"matvec:{m}x{n}x{n}", OpClass.MATVEC, size, m, n, n, repeats)


def _product_chain(name: str, op_class: OpClass, size_bytes: int, m: int, k: int, n: int, repeats: int) -> OperatorCase:
    def weights() -> dict[str, np.ndarray]:
        base = noise((k, n)) / np.float32(k) ** 0.5
        return {f"w{index}": np.roll(base, index + 1) for index in range(repeats)}

    nodes = [
        helper.make_node("MatMul", [_tensor_name(index), f"w{index}"], [_tensor_name(index + 1, repeats)])
        for index in range(repeats)
    ]
    case = _case(name, op_class, "MatMul", 2.0 * m * k * n, size_bytes, (m, k), (m, n), nodes, weights)
    return replace(case, repeats=repeats)


def _conv(inputs: int, outputs: int, side: int, kernel: int) -> OperatorCase:
    shape, output_shape, count = (1, inputs, side, side), (1, outputs, side, side), inputs * kernel * kernel
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)
    return _case(
        f"conv:{inputs}x{outputs}x{side}x{kernel}", OpClass.CONV, "Conv", 2.0 * side * side * outputs * count,
        4 * ((inputs + outputs) * side * side + outputs * count), shape, output_shape, [node],
        lambda: {"w": noise((outputs, inputs, kernel, kernel)) / np.float32(count) ** 0.5},
    )  # fmt: skip


def elementwise(count: int) -> OperatorCase:
    """Return a sum of two vectors, of which one is constant."""
    shape, node = (count,), helper.make_node("Add", ["x", "w"], ["y"])
    return _case(
        f"elementwise:add:{count}", OpClass.ELEMENTWISE, "Add", float(count), 12 * count, shape, shape, [node],
        lambda: {"w": noise(shape)},
    )  # fmt: skip


def _layer_norm(rows: int, width: int) -> OperatorCase:
    shape, node = (rows, width), helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], axis=-1)
    return _case(
        f"norm:layer:{rows}x{width}", OpClass.NORM, "LayerNormalization", 7.0 * rows * width,
        8 * rows * width + 8 * width, shape, shape, [node],
        lambda: {"w": np.ones(width, np.float32), "b": np.zeros(width, np.float32)},
    )  # fmt: skip


def _softmax(rows: int, width: int) -> OperatorCase:
    shape, node = (rows, width), helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    name, flops = f"norm:softmax:{rows}x{width}", 5.0 * rows * width
    return _case(name, OpClass.NORM, "Softmax", flops, 8 * rows * width, shape, shape, [node])


def _transpose(rows: int, width: int) -> OperatorCase:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    return _movement("Transpose", rows, width, (rows, width), (width, rows), node)


def _gather(rows: int, width: int, table: int = 8192) -> OperatorCase:
    def indices() -> dict[str, np.ndarray]:
        return {"i": np.random.default_rng(0).permutation(table)[:rows].astype(np.int64)}

    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
    return _movement("Gather", rows, width, (table, width), (rows, width), node, indices)


def _concat(rows: int, width: int) -> OperatorCase:
    node = helper.make_node("Concat", ["x", "w"], ["y"], axis=0)
    return _movement("Concat", rows, width, (rows, width), (2 * rows, width), node, lambda: {"w": noise((rows, width))})


def _movement(
    op_type: str,
    rows: int,
    width: int,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    node: onnx.NodeProto,
    constants: Callable[[], dict[str, np.ndarray]] = dict,
) -> OperatorCase:
    """Return a case of data movement: each element of the output is read and written once."""
    name, size_bytes = f"data_movement:{op_type.lower()}:{rows}x{width}", 8 * prod(output_shape)
    return _case(name, OpClass.DATA_MOVEMENT, op_type, 0.0, size_bytes, shape, output_shape, [node], constants)


def _attention(heads: int, tokens: int, width: int) -> OperatorCase:
    shape = (1, heads, tokens, width)
    nodes = [
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["y"]),
    ]
    return _case(
        f"attention:{heads}x{tokens}x{width}", OpClass.ATTENTION, "Attention",
        float(heads * tokens * tokens * (4 * width + 5)),
        16 * heads * tokens * width,  # queries, keys and values read, the result written
        shape, shape, nodes, lambda: {"scale": np.array(width**-0.5, np.float32)},
    )  # fmt: skip


def _lstm(steps: int, width: int) -> OperatorCase:
    def weights() -> dict[str, np.ndarray]:
        scaled = noise((1, 4 * width, width)) / np.float32(width) ** 0.5
        return {"w": scaled, "r": scaled[:, ::-1]}

    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=width)
    return _case(
        f"recurrent:lstm:{steps}x{width}", OpClass.RECURRENT, "LSTM", float(steps * (16 * width * width + 8 * width)),
        4 * (8 * width * width + 2 * steps * width), (steps, 1, width), (steps, 1, 1, width), [node], weights,
    )  # fmt: skip


def _tensor_name(index: int, last: int = -1) -> str:
    return "x" if index == 0 else "y" if index == last else f"t{index}"
