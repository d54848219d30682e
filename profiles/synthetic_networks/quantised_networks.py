"""8-bit networks: in the QDQ format of exporters, or dynamically quantised."""

from __future__ import annotations

import random

import numpy as np
from onnx import TensorProto

from .network_builder import MICROSOFT, NOISE, NetworkBuilder, activate, pick
from .sequence_networks import hidden_size, layer_norm


def _requantise(n: NetworkBuilder) -> str:
    """Quantise and dequantise the current tensor."""
    scale, zero = n.scalar(0.05), n.constant(np.array(128, np.uint8))
    return n.op("DequantizeLinear", [n.op("QuantizeLinear", [n.value, scale, zero]), scale, zero])


def _eight_bits(n: NetworkBuilder, *shape: int, axis: int = 0) -> str:
    """Add an 8-bit weight with its scales, dequantised."""
    array = np.resize(NOISE * 40, shape).clip(-127, 127).astype(np.int8)
    if n.rng.random() < 0.5:
        scale, zero = n.scalar(0.01), n.constant(np.array(0, np.int8))
        return n.op("DequantizeLinear", [n.constant(array), scale, zero])
    count = shape[axis]
    scale, zero = n.constant(np.full(count, 0.01, np.float32)), n.constant(np.zeros(count, np.int8))
    return n.op("DequantizeLinear", [n.constant(array), scale, zero], axis=axis)


def _linear_8(n: NetworkBuilder, outputs: int) -> None:
    inputs = n.shape[-1]
    n.value = n.op("MatMul", [_requantise(n), _eight_bits(n, inputs, outputs, axis=1)])
    n.shape = (*n.shape[:-1], outputs)
    if n.quantises_outputs:
        n.value = _requantise(n)
    if n.rng.random() < 0.9:
        n.then("Add", n.weight(outputs))


def _conv_8(n: NetworkBuilder, act: str) -> None:
    rng, (_, inputs, height, width) = n.rng, n.shape
    depthwise = rng.random() < 0.25
    outputs = inputs if depthwise else pick(rng, 16, 128, 8)
    kernel, stride = rng.choice((1, 3)), rng.choice((1, 1, 2))
    groups = inputs if depthwise else 1
    operands = [_requantise(n), _eight_bits(n, outputs, inputs // groups, kernel, kernel), n.weight(outputs)]
    n.value = n.op(
        "Conv", operands, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups
    )
    n.shape = (1, outputs, (height - 1) // stride + 1, (width - 1) // stride + 1)
    if n.quantises_outputs:
        n.value = _requantise(n)
    activate(n, act)


def _conv1d_8(n: NetworkBuilder) -> None:
    rng, (_, inputs, length) = n.rng, n.shape
    outputs, kernel, stride = pick(rng, 16, 512, 8), rng.choice((1, 3, 3, 5)), rng.choice((1, 1, 2))
    operands = [_requantise(n), _eight_bits(n, outputs, inputs, kernel), n.weight(outputs)]
    n.value = n.op("Conv", operands, kernel_shape=[kernel], strides=[stride], pads=[kernel // 2] * 2)
    n.shape = (1, outputs, (length - 1) // stride + 1)
    if n.quantises_outputs:
        n.value = _requantise(n)
    activate(n, rng.choice(("Gelu", "Relu", "")))


def quantised(rng: random.Random) -> NetworkBuilder:
    """Return a network of products or convolutions in the QDQ format."""
    quantises_outputs = rng.random() < 0.5
    kind = rng.random()
    if kind < 0.15:
        n = NetworkBuilder((1, pick(rng, 16, 256, 8), pick(rng, 32, 1024)), rng)
        n.quantises_outputs = quantises_outputs
        for _ in range(rng.randint(2, 4)):
            _conv1d_8(n)
        return n
    if kind < 0.45:
        n = NetworkBuilder((1, pick(rng, 3, 32), *[pick(rng, 16, 112, 8)] * 2), rng)
        n.quantises_outputs = quantises_outputs
        act = rng.choice(("Relu", "Relu", "Silu"))
        for _ in range(rng.randint(3, 6)):
            _conv_8(n, act)
        return n
    heads = rng.choice((2, 4, 6))
    n = NetworkBuilder((1, pick(rng, 16, 512), heads * 64), rng)
    n.quantises_outputs = quantises_outputs
    for _ in range(rng.randint(1, 2)):
        before, width = n.value, n.shape[-1]
        layer_norm(n)
        if rng.random() < 0.6:
            _attend_8(n, heads)
        else:
            _linear_8(n, width)
        n.value = before = n.op("Add", [before, n.value])
        layer_norm(n)
        _linear_8(n, 4 * width)
        activate(n, rng.choice(("Gelu", "Relu")))
        _linear_8(n, width)
        n.value = n.op("Add", [before, n.value])
    return n


def _attend_8(n: NetworkBuilder, heads: int) -> None:
    _, tokens, width = n.shape
    size, before, parts = width // heads, n.value, []
    for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        n.value, n.shape = before, (1, tokens, width)
        _linear_8(n, width)
        shape = n.op("Reshape", [n.value, n.ints([1, tokens, heads, size])])
        n.value = n.op("Transpose", [shape], perm=list(order))
        parts.append(_requantise(n) if n.rng.random() < 0.7 else n.value)
    n.value = n.op("MatMul", parts[:2])
    if n.quantises_outputs:
        n.value = _requantise(n)
    n.value = n.op("Mul", [n.value, n.scalar(size**-0.5)])
    n.value = n.op("Softmax", [n.value], axis=-1)
    n.value = n.op("MatMul", [_requantise(n) if n.rng.random() < 0.7 else n.value, parts[2]])
    if n.quantises_outputs:
        n.value = _requantise(n)
    n.value = n.op("Transpose", [n.value], perm=[0, 2, 1, 3])
    n.reshape((1, tokens, width))
    _linear_8(n, width)


def dynamic(rng: random.Random) -> NetworkBuilder:
    """Return a dynamically quantised network: 8-bit weights, and activation scales computed at run time."""
    if rng.random() < 0.4:
        n = NetworkBuilder((1, pick(rng, 8, 32, 8), *[pick(rng, 16, 80, 8)] * 2), rng)
        for _ in range(rng.randint(2, 4)):
            outputs, kernel, stride = pick(rng, 16, 320, 8), rng.choice((1, 3)), rng.choice((1, 1, 2))
            _, inputs, height, width = n.shape
            q = n.op("DynamicQuantizeLinear", [n.value], outputs=3)
            weight = np.resize(NOISE * 40 + 128, (outputs, inputs, kernel, kernel)).clip(0, 255).astype(np.uint8)
            operands = [q, n.constant(weight), f"{q}.2", n.constant(np.array(128, np.uint8))]
            product = n.op("ConvInteger", operands, kernel_shape=[kernel] * 2, strides=[stride] * 2,
                         pads=[kernel // 2] * 4)  # fmt: skip
            scale = n.op("Mul", [f"{q}.1", n.scalar(0.01)])
            n.value = n.op("Mul", [n.op("Cast", [product], to=TensorProto.FLOAT), scale])
            n.shape = (1, outputs, (height - 1) // stride + 1, (width - 1) // stride + 1)
            n.then("Add", n.weight(1, outputs, 1, 1))
            activate(n, rng.choice(("Relu", "Silu", "Elu")))
        return n
    steps, width, words = pick(rng, 8, 128), pick(rng, 32, 256, 16), pick(rng, 40, 5000)
    n = NetworkBuilder((1, steps), rng, TensorProto.INT64)
    n.value = n.op("Gather", [n.weight(words, width), n.value], axis=0)
    n.shape = (1, steps, width)
    n.transpose(1, 0, 2)
    for _ in range(rng.randint(1, 2)):
        _recurrent_8(n)
    n.transpose(1, 0, 2)
    _linear_dynamic(n, pick(rng, 16, 800))
    activate(n, rng.choice(("Relu", "Gelu", "")))
    _linear_dynamic(n, pick(rng, 8, 10_000))
    return n


def _recurrent_8(n: NetworkBuilder) -> None:
    steps, _, width = n.shape
    directions, hidden = n.rng.choice((1, 2, 2)), max(32, hidden_size(n) // 16 * 16)
    operands = [n.value]
    scales = []
    for rows in (width, hidden):
        operands.append(
            n.constant(np.resize(NOISE * 40, (directions, rows, 4 * hidden)).clip(-127, 127).astype(np.int8))
        )
        scales += [n.constant(np.full(directions, 0.01, np.float32)), n.constant(np.zeros(directions, np.int8))]
    operands += [n.weight(directions, 8 * hidden), "", "", "", "", *scales]
    n.value = n.op("DynamicQuantizeLSTM", operands, domain=MICROSOFT, hidden_size=hidden,
                   direction="bidirectional" if directions == 2 else "forward")  # fmt: skip
    n.shape = (steps, directions, 1, hidden)
    n.transpose(0, 2, 1, 3)
    n.reshape((steps, 1, directions * hidden))


def _linear_dynamic(n: NetworkBuilder, outputs: int) -> None:
    inputs = n.shape[-1]
    q = n.op("DynamicQuantizeLinear", [n.value], outputs=3)
    weight = np.resize(NOISE * 40, (inputs, outputs)).clip(-127, 127).astype(np.int8)
    product = n.op("MatMulInteger", [q, n.constant(weight), f"{q}.2", n.constant(np.array(0, np.int8))])
    scale = n.op("Mul", [f"{q}.1", n.scalar(0.01)])
    n.value = n.op("Mul", [n.op("Cast", [product], to=TensorProto.FLOAT), scale])
    n.shape = (*n.shape[:-1], outputs)
    n.then("Add", n.weight(outputs))
