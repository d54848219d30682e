"""Networks of cheap operators: elementwise operators, reductions and data movements, with a few matrix products."""

from __future__ import annotations

import random
from collections.abc import Callable

from onnx import TensorProto, helper

from .network_builder import NetworkBuilder, activate, pick
from .sequence_networks import layer_norm, linear


def arithmetic(rng: random.Random) -> NetworkBuilder:
    """Return a network of elementwise operators, reductions, data movements and a few products on one matrix."""
    tall, wide = rng.choice(((8, 8), (64, 16), (4096, 1024), (4096, 1024), (32_768, 16)))
    n = NetworkBuilder((1, pick(rng, 1, tall), pick(rng, 1, wide)), rng)
    while n.shape[1] * n.shape[2] > 600_000:
        n.shape = (1, n.shape[1] // 2, n.shape[2])
        n._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, n.shape)
    for _ in range(rng.randint(8, 24)):
        rng.choice(_BLOCKS)(n)
    return n


def _binary(n: NetworkBuilder) -> None:
    wide = n.weight(*n.rng.choice((n.shape, n.shape[-1:], (1, n.shape[1], 1), (1,))))
    n.then(n.rng.choice(("Add", "Mul", "Sub", "Add", "Mul")), wide)


def _unary(n: NetworkBuilder) -> None:
    n.then(n.rng.choice(("Relu", "Sigmoid", "Tanh", "Erf", "Abs", "Neg", "Exp", "Sqrt")))
    if n.rng.random() < 0.5:
        activate(n, n.rng.choice(("Gelu", "Silu", "hardswish")))


def _reduce(n: NetworkBuilder) -> None:
    kind = n.rng.choice(("ReduceMean", "ReduceMax", "softmax", "softmax", "norm", "ReduceSum", "ReduceSum", "pool"))
    if kind == "softmax":
        n.then("Softmax", axis=n.rng.choice((-1, -1, 1)))
    elif kind == "norm":
        layer_norm(n)
    elif kind == "pool":
        n.value = n.op("Sub", [n.value, n.op(n.rng.choice(("GlobalMaxPool", "GlobalAveragePool")), [n.value])])
    else:
        before, axes = n.value, n.rng.choice(([-1], [-1], [1], [1, 2]))
        if kind == "ReduceSum":  # takes its axes as an input
            n.then(kind, n.ints(axes), keepdims=1)
        else:
            n.then(kind, axes=axes, keepdims=1)
        n.value = n.op("Sub", [before, n.value])


def _move(n: NetworkBuilder) -> None:
    rng = n.rng
    kind = rng.choice(
        ("transpose", "concat", "slice", "narrow", "widen", "pad", "expand", "gather", "cast", "stack", "mask", "view")
    )
    _, rows, width = n.shape
    if kind == "transpose":
        n.transpose(0, 2, 1)
    elif kind == "concat" and rows * width < 300_000:
        n.value, n.shape = n.op("Concat", [n.value, n.weight(1, rows, width)], axis=1), (1, 2 * rows, width)
    elif kind == "slice" and rows >= 16:
        n.then("Slice", n.ints([0]), n.ints([rows // 2]), n.ints([1]), shape=(1, rows // 2, width))
    elif kind == "narrow" and width >= 16:
        step = rng.choice((1, 2))
        ends = (n.ints([0]), n.ints([width // 2 * step]), n.ints([2]), n.ints([step]))
        n.then("Slice", *ends, shape=(1, rows, width // 2))
    elif kind == "widen" and rows * width < 300_000:
        n.value, n.shape = n.op("Concat", [n.value, n.weight(1, rows, width)], axis=2), (1, rows, 2 * width)
    elif kind == "pad":
        n.then("Pad", n.ints([0, 1, 0, 0, 1, 0]), shape=(1, rows + 2, width))
    elif kind == "expand" and rows * width < 100_000:
        n.then("Expand", n.ints([2, rows, width]), shape=(2, rows, width))
        n.value = n.op("ReduceSum", [n.value, n.ints([0])], keepdims=1)
        n.shape = (1, rows, width)
    elif kind == "gather":
        picked = n.ints([rng.randrange(rows) for _ in range(rows)])
        n.value = n.op("Gather", [n.value, picked], axis=1)
    elif kind == "stack" and rows * width < 100_000:
        parts = [n.value, *(n.op("Mul", [n.value, n.scalar(i)]) for i in range(2, rng.randint(3, 8)))]
        columns = [n.op("Unsqueeze", [part, n.ints([3])]) for part in parts]
        stacked = n.op("Concat", columns, axis=rng.choice((-1, 3)))
        n.value = n.op("ReduceSum", [stacked, n.ints([3])], keepdims=0)
    elif kind == "mask":
        equal = n.op("Equal", [n.value, n.weight(1, 1, width)])
        n.value = n.op("Where", [n.op("Not", [equal]) if rng.random() < 0.5 else equal, n.value, n.scalar(1)])
    elif kind == "view":
        n.value = n.op("Squeeze", [n.op("Unsqueeze", [n.value, n.ints([1])]), n.ints([1])])
    elif kind == "cast":
        if rng.random() < 0.6:
            source = n.op("Greater", [n.value, n.scalar(0)])
        else:
            source = n.op("Cast", [n.value], to=rng.choice((TensorProto.INT32, TensorProto.INT64)))
        n.value = n.op("Cast", [source], to=TensorProto.FLOAT)


def _product(n: NetworkBuilder) -> None:
    if n.shape[1] * n.shape[2] < 200_000:
        linear(n, pick(n.rng, 16, 512))
        activate(n, n.rng.choice(("Relu", "Gelu", "Tanh", "")))


_BLOCKS: tuple[Callable[[NetworkBuilder], None], ...] = (
    _binary,
    _binary,
    _unary,
    _unary,
    _reduce,
    _move,
    _move,
    _product,
)
