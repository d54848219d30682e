"""Sequence networks: transformers, recurrent networks, and 1-D convolutions on a signal."""

from __future__ import annotations

import random

import numpy as np
from onnx import TensorProto

from .network_builder import NetworkBuilder, activate, conv, pick


def no_head(n: NetworkBuilder) -> None:
    """Add no head: the features are the output."""


def heads_of(width: int) -> int:
    return next(h for h in (8, 6, 4, 3, 2, 1) if width % h == 0)


def linear(n: NetworkBuilder, outputs: int) -> None:
    """Add a linear layer, sometimes as Gemm where the input is a matrix."""
    inputs = n.shape[-1]
    weight, shape = n.weight(inputs, outputs, fan_in=inputs), (*n.shape[:-1], outputs)
    if len(n.shape) == 2 and n.rng.random() < 0.6:
        n.then("Gemm", weight, n.weight(outputs), shape=shape)
        return
    n.then("MatMul", weight, shape=shape)
    if n.rng.random() < 0.85:
        bias = n.weight(outputs)
        n.value = n.op("Add", [bias, n.value] if n.rng.random() < 0.5 else [n.value, bias])


def layer_norm(n: NetworkBuilder) -> None:
    """Add a layer normalisation, as one operator or as the sequence that exporters write."""
    width = n.shape[-1]
    scale, bias = n.weight(width), n.weight(width)
    if n.rng.random() < 0.5:
        n.then("LayerNormalization", scale, bias, axis=-1)
        return
    mean = n.op("ReduceMean", [n.value], axes=[-1], keepdims=1)
    centred = n.op("Sub", [n.value, mean])
    spread = n.op("ReduceMean", [n.op("Pow", [centred, n.scalar(2)])], axes=[-1], keepdims=1)
    normal = n.op("Div", [centred, n.op("Sqrt", [n.op("Add", [spread, n.scalar(1e-5)])])])
    n.value = n.op("Add", [n.op("Mul", [normal, scale]), bias])


def attend(n: NetworkBuilder, heads: int) -> None:
    """Add multi-head attention, made of elementary operators."""
    _, tokens, width = n.shape
    size, before, scale = width // heads, n.value, n.scalar((width // heads) ** -0.5)

    def split_heads(source: str, order: tuple[int, ...]) -> str:
        shape = n.op("Reshape", [source, n.ints([1, tokens, heads, size])])
        return n.op("Transpose", [shape], perm=list(order))

    parts = []
    if n.rng.random() < 0.5:
        for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
            n.value, n.shape = before, (1, tokens, width)
            linear(n, width)
            parts.append(split_heads(n.value, order))
        query, key, values = parts
    else:
        linear(n, 3 * width)
        packed = n.op("Reshape", [n.value, n.ints([1, tokens, 3, heads, size])])
        packed = n.op("Transpose", [packed], perm=[2, 0, 3, 1, 4])
        query, key, values = (n.op("Gather", [packed, n.constant(np.array(i, np.int64))], axis=0) for i in range(3))
        key = n.op("Transpose", [key], perm=[0, 1, 3, 2])
    if n.rng.random() < 0.5:
        scores = n.op("MatMul", [n.op("Mul", [query, scale]), key])
    else:
        scores = n.op("Mul", [n.op("MatMul", [query, key]), scale])
    mixed = n.op("MatMul", [n.op("Softmax", [scores], axis=-1), values])
    n.value = n.op("Transpose", [mixed], perm=[0, 2, 1, 3])
    n.reshape((1, tokens, width))
    linear(n, width)


def encoder(n: NetworkBuilder, heads: int) -> None:
    """Add a transformer layer."""
    first = n.rng.random() < 0.6
    for step in range(2):
        before = n.value
        width = n.shape[-1]
        if first:
            layer_norm(n)
        if step == 0:
            attend(n, heads)
        else:
            linear(n, width * n.rng.choice((2, 4, 4)))
            activate(n, n.rng.choice(("Gelu", "Gelu", "Relu", "Silu")))
            linear(n, width)
        n.value = n.op("Add", [before, n.value] if n.rng.random() < 0.5 else [n.value, before])
        if not first:
            layer_norm(n)


def transformer(rng: random.Random) -> NetworkBuilder:
    heads = rng.choice((2, 3, 4, 6, 8))
    n = NetworkBuilder((1, pick(rng, 8, 512), heads * rng.choice((16, 32, 48, 64))), rng)
    for _ in range(rng.randint(1, 3)):
        encoder(n, heads)
    if rng.random() < 0.5:
        linear(n, pick(rng, 8, 4000))
        n.then("Softmax", axis=-1)
    return n


def conv1d(n: NetworkBuilder, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
    _, inputs, length = n.shape
    operands = [n.weight(outputs, inputs // groups, kernel, fan_in=inputs // groups * kernel)]
    operands += [n.weight(outputs)] * (n.rng.random() < 0.7)
    pad = kernel // 2
    shape = (1, outputs, (length + 2 * pad - kernel) // stride + 1)
    n.then("Conv", *operands, shape=shape, kernel_shape=[kernel], strides=[stride], pads=[pad, pad], group=groups)


def audio(rng: random.Random) -> NetworkBuilder:
    """Return an audio network: a filter bank on a signal, its power spectrum, and convolutions on that."""
    n = NetworkBuilder((1, 1, pick(rng, 512, 60_000, 64)), rng)
    kind = rng.random()
    if kind < 0.25:  # features of a text or a signal instead of samples
        shortest = rng.choice((1, 32))
        n = NetworkBuilder((1, pick(rng, 32, 512, 8), pick(rng, shortest, 2048)), rng)
    elif kind < 0.4:  # resampled by long filters
        for _ in range(rng.randint(1, 4)):
            conv1d(n, rng.choice((1, 1, 2)), rng.choice((32, 64, 128, 256)), rng.choice((1, 2, 2)))
        conv1d(n, rng.choice((16, 32, 64)), rng.choice((16, 64)), rng.choice((4, 8)))
    elif kind < 0.7:
        taps = rng.choice((64, 128, 256, 512))
        bands = rng.choice((32, 64, 129))
        signal, shape = n.value, n.shape
        hop = max(taps // 2, shape[2] * bands * taps // 60_000_000 + 1)
        squares = []
        for _ in range(2):
            n.value, n.shape = signal, shape
            conv1d(n, bands, taps, hop)
            squares.append(
                n.op("Mul", [n.value, n.value]) if rng.random() < 0.5 else n.op("Pow", [n.value, n.scalar(2)])
            )
        n.value = n.op("Add", squares)
        n.then("Sqrt")
        if rng.random() < 0.5:
            n.value = n.op("Log", [n.op("Add", [n.value, n.scalar(1)])])
        if rng.random() < 0.5:
            n.value = n.op("Sub", [n.value, n.op("ReduceMean", [n.value], axes=[-1], keepdims=1)])
    else:
        conv1d(n, rng.choice((16, 32, 64)), rng.choice((3, 9, 16)), rng.choice((2, 4, 8)))
        activate(n, "Relu")
    if rng.random() < 0.5 and n.shape[2] >= 16 and n.shape[1] * n.shape[2] < 200_000:
        _pitch(n)
        return n
    while n.shape[1] * n.shape[2] > 120_000:
        conv1d(n, n.shape[1], 3, 2)
    for _ in range(rng.randint(1, 4)):
        conv1d(n, pick(rng, 16, 640, 8), rng.choice((1, 3, 3, 5, 9, 16)), rng.choice((1, 1, 2)))
        activate(n, rng.choice(("Relu", "Gelu", "Silu", "")))
    n.transpose(0, 2, 1)
    rng.choice((encoder_layers, recurrent_layers, no_head))(n)
    return n


def _pitch(n: NetworkBuilder) -> None:
    """Add a pitch network: stack shifted copies of the spectrum as an image, then convolve."""
    _, bands, length = n.shape
    n.transpose(0, 2, 1)
    n.reshape((1, 1, length, bands))
    parts, spectrum = [], n.value
    for shift in range(n.rng.randint(2, 6)):
        padded = n.op("Pad", [spectrum, n.ints([0, 0, 0, 0, 0, 0, 0, shift + 1])])
        ends = n.ints([shift + 1]), n.ints([bands + shift + 1]), n.ints([3])
        parts.append(n.op("Slice", [padded, *ends]))
    n.value, n.shape = n.op("Concat", parts, axis=1), (1, len(parts), length, bands)
    for _ in range(n.rng.randint(1, 3)):
        conv(n, n.rng.choice((8, 16, 32)), n.rng.choice((3, 5, (3, 39), (7, 7))), n.rng.choice((1, (1, 3))),
             act="Relu", norm=n.rng.random() < 0.5)  # fmt: skip
    conv(n, 1, 5, act="Sigmoid")
    n.then("Squeeze", n.ints([1]), shape=(1, *n.shape[2:]))


def encoder_layers(n: NetworkBuilder) -> None:
    for _ in range(n.rng.randint(1, 2)):
        encoder(n, heads_of(n.shape[-1]))


def hidden_size(n: NetworkBuilder) -> int:
    """Return a random width of a recurrent layer, smaller for long sequences."""
    largest = 512 if n.shape[0] < 80 else 256
    return n.rng.choice((pick(n.rng, 16, largest, 8), pick(n.rng, 16, largest, 8), 128, 256, largest))


def recurrent_layers(n: NetworkBuilder) -> None:
    n.transpose(1, 0, 2)
    for _ in range(n.rng.randint(1, 2)):
        _recurrent(n)
    n.transpose(1, 0, 2)


def _recurrent(n: NetworkBuilder) -> None:
    """Add an LSTM or a GRU, in one or both directions."""
    steps, _, width = n.shape
    directions, hidden = n.rng.choice((1, 2)), hidden_size(n)
    op_type, gates = n.rng.choice((("LSTM", 4), ("LSTM", 4), ("GRU", 3)))
    weights = [
        n.weight(directions, gates * hidden, width, fan_in=width),
        n.weight(directions, gates * hidden, hidden, fan_in=hidden),
        n.weight(directions, 2 * gates * hidden),
    ]
    direction = "bidirectional" if directions == 2 else "forward"
    n.value = n.op(op_type, [n.value, *weights], outputs=2, hidden_size=hidden, direction=direction)
    n.shape = (steps, directions, 1, hidden)
    n.transpose(0, 2, 1, 3)
    n.reshape((steps, 1, directions * hidden))


def tokens(rng: random.Random) -> NetworkBuilder:
    """Return a token network: an embedding, and recurrence or attention on it."""
    tokens, width, words = pick(rng, 4, 256), pick(rng, 32, 256, 16), pick(rng, 40, 20_000)
    n = NetworkBuilder((1, tokens), rng, TensorProto.INT64)
    n.value = n.op("Gather", [n.weight(words, width), n.value], axis=0)
    n.shape = (1, tokens, width)
    if rng.random() < 0.5:
        n.value = n.op("Add", [n.value, n.weight(1, tokens, width)])
    rng.choice((encoder_layers, recurrent_layers, recurrent_layers))(n)
    linear(n, pick(rng, 8, 8000))
    if rng.random() < 0.5:
        n.then("Softmax", axis=-1)
    return n
