"""Image networks: blocks and heads of classifiers, detectors and segmentation networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from .network_builder import ACTS, NetworkBuilder, activate, conv, pick
from .sequence_networks import encoder, heads_of, linear, no_head

_STRIDE_MIN = 2
"""Minimum height and width for a stride in networks of depthwise convolutions, which also read lines of text."""


def squeeze_excite(n: NetworkBuilder) -> None:
    """Add a squeeze-and-excitation block."""
    before, shape = n.value, n.shape
    channels = shape[1]
    if n.rng.random() < 0.6:
        n.then("GlobalAveragePool", shape=(1, channels, 1, 1))
    else:
        n.then("ReduceMean", shape=(1, channels, 1, 1), axes=[2, 3], keepdims=1)
    conv(n, max(4, channels // n.rng.choice((4, 4, 16))), 1, act="Relu")
    conv(n, channels, 1, act=n.rng.choice(("HardSigmoid", "Sigmoid")))
    n.value, n.shape = n.op("Mul", [before, n.value]), shape


def inverted_residual(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add an inverted residual block: expand, depthwise convolution, project."""
    rng, before, shape = n.rng, n.value, n.shape
    inputs = shape[1]
    stride = rng.choice((1, 1, 1, 2, (2, 1))) if min(shape[2:]) >= _STRIDE_MIN else 1
    outputs = inputs if stride == 1 and rng.random() < 0.7 else pick(rng, max(8, inputs), inputs * 2, 8)
    conv(n, inputs * rng.choice((1, 2, 3, 4, 6)), 1, act=act, norm=norm)
    conv(n, n.shape[1], rng.choice((3, 3, 5)), stride, n.shape[1], act=act, norm=norm)
    if rng.random() < 0.35:
        squeeze_excite(n)
    conv(n, outputs, 1, norm=norm)
    if n.shape == shape:
        n.value = n.op("Add", [before, n.value])


def separable(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add a depthwise separable convolution."""
    rng = n.rng
    stride = rng.choice((1, 1, 2, (2, 1))) if min(n.shape[2:]) >= _STRIDE_MIN else 1
    conv(n, n.shape[1], rng.choice((3, 3, 5)), stride, n.shape[1], act=act, norm=norm)
    if rng.random() < 0.2:
        squeeze_excite(n)
    conv(n, pick(rng, n.shape[1], n.shape[1] * 2, 8), 1, act=act, norm=norm)


def residual(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add a residual block of two or three convolutions."""
    rng, before, shape = n.rng, n.value, n.shape
    stride = rng.choice((1, 1, 2)) if min(shape[2:]) >= 8 else 1
    outputs = shape[1] if stride == 1 else shape[1] * 2
    if rng.random() < 0.5:
        conv(n, outputs, 3, stride, act=act, norm=norm)
        conv(n, outputs, 3, norm=norm)
    else:
        conv(n, max(8, outputs // 2), 1, act=act, norm=norm)
        conv(n, max(8, outputs // 2), 3, stride, act=act, norm=norm)
        conv(n, outputs, 1, norm=norm)
    main, result = n.value, n.shape
    if result != shape:
        n.value, n.shape = before, shape
        conv(n, outputs, 1, stride, norm=norm)
        before = n.value
    n.value, n.shape = n.op("Add", [main, before]), result
    activate(n, act)


def cross_stage(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add a cross-stage partial block: half of the channels pass through bottlenecks."""
    rng = n.rng
    channels = max(16, n.shape[1] // 16 * 16)
    conv(n, channels, 1, act=act, norm=norm)
    half, spatial = channels // 2, n.shape[2:]
    if rng.random() < 0.5:
        first = n.op("Split", [n.value, n.ints([half, half])], outputs=2, axis=1)
        second = f"{first}.1"
    else:
        whole = n.value
        first = n.op("Slice", [whole, n.ints([0]), n.ints([half]), n.ints([1])])
        second = n.op("Slice", [whole, n.ints([half]), n.ints([channels]), n.ints([1])])
    parts = [first, second]
    for _ in range(rng.randint(1, 2)):
        n.value, n.shape = parts[-1], (1, half, *spatial)
        conv(n, half, 3, act=act, norm=norm)
        conv(n, half, 3, act=act, norm=norm)
        parts.append(n.op("Add", [parts[-1], n.value]) if rng.random() < 0.6 else n.value)
    n.value, n.shape = n.op("Concat", parts, axis=1), (1, half * len(parts), *spatial)
    conv(n, pick(rng, channels, channels * 2, 8), 1, act=act, norm=norm)


def plain(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add a convolution of any kind, possibly with pooling."""
    rng = n.rng
    kernel = rng.choice((1, 3, 3, 3, 5, 7, (1, 3), (3, 1), (1, 7), (5, 5), (3, 39 if n.shape[3] > 80 else 3), (7, 7)))
    outputs = pick(rng, max(8, n.shape[1] // 2), n.shape[1] * 2 + 8, rng.choice((8, 8, 1)))
    stride = rng.choice((1, 1, 1, 2, (1, 3))) if min(n.shape[2:]) >= 8 else 1
    conv(n, outputs, kernel, stride, act=act, norm=norm)
    if rng.random() < 0.3 and min(n.shape[2:]) >= 6:
        pool(n)


def pool(n: NetworkBuilder) -> None:
    """Add a pooling that halves or keeps the size."""
    rng, (_, channels, height, width) = n.rng, n.shape
    op_type = rng.choice(("MaxPool", "MaxPool", "AveragePool"))
    if rng.random() < 0.6:
        k, shape = rng.choice((2, 2, 3)), (1, channels, (height - 1) // 2 + 1, (width - 1) // 2 + 1)
        even = height % 2 == 0 and width % 2 == 0 and k == 2
        pads = [0] * 4 if even else [k // 2 if k == 3 else 0] * 2 + [k // 2 if k == 3 else 1] * 2
        if k == 2 and not even:
            return
        n.then(op_type, shape=shape, kernel_shape=[k, k], strides=[2, 2], pads=pads)
    else:
        n.then(op_type, shape=n.shape, kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)


def upsample(n: NetworkBuilder, act: str, norm: bool) -> None:
    """Add an upsampling by 2: nearest, linear, or a transposed convolution; then join a shortcut."""
    rng, (_, channels, height, width) = n.rng, n.shape
    if height * width * channels > 400_000:
        return
    big = (1, channels, 2 * height, 2 * width)
    if rng.random() < 0.3:
        transposed_conv(n, pick(rng, 8, channels, 8))
        activate(n, act)
        return
    scales = n.constant(np.array([1, 1, 2, 2], np.float32))
    mode = "nearest" if rng.random() < 0.7 else "linear"
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    n.value = n.op(
        "Resize", [n.value, "", scales], mode=mode, coordinate_transformation_mode=coordinates, nearest_mode="floor"
    )
    n.shape = big
    before = n.value
    conv(n, channels, 3, act=act, norm=norm)
    if rng.random() < 0.5:
        n.value = n.op("Add", [before, n.value])
    else:
        n.value, n.shape = n.op("Concat", [before, n.value], axis=1), (1, 2 * channels, *big[2:])


def transposed_conv(n: NetworkBuilder, outputs: int) -> None:
    """Add a transposed convolution that doubles height and width."""
    _, channels, height, width = n.shape
    operands = [n.weight(channels, outputs, 2, 2, fan_in=channels)] + [n.weight(outputs)] * (n.rng.random() < 0.6)
    n.then("ConvTranspose", *operands, shape=(1, outputs, 2 * height, 2 * width), kernel_shape=[2, 2], strides=[2, 2])


def _image(rng: random.Random, blocks: Sequence[Callable[[NetworkBuilder, str, bool], None]]) -> NetworkBuilder:
    """Return an image network of some blocks."""
    side = pick(rng, 24, 416, 8)
    wide = rng.choice((1, 1, 1, 0.25, 3))
    n = NetworkBuilder((1, rng.choice((1, 3, 3, 3)), side, max(16, round(side * wide / 8) * 8)), rng)
    act, norm = rng.choice(ACTS), rng.random() < 0.4
    n.scales = rng.choice(("", "", "", "", "before", "behind"))
    conv(n, pick(rng, 8, 64, 8), rng.choice((3, 3, 3, 7)), 2, act=act, norm=norm)
    for _ in range(rng.randint(3, 8)):
        while n.shape[1] * n.shape[2] * n.shape[3] > 700_000 or (n.shape[1] > 256 and n.shape[2] > 40):
            conv(n, max(16, n.shape[1] // 2 // 8 * 8), 3, 2, act=act, norm=norm)
        rng.choice(blocks)(n, act, norm)
        if n.shape[1] > 768:
            conv(n, pick(rng, 96, 256, 8), 1, act=act, norm=norm)
    return n


def mobile(rng: random.Random) -> NetworkBuilder:
    n = _image(rng, (inverted_residual, separable, separable))
    rng.choice((_classify, no_head, _sequence_head))(n)
    return n


def resnet(rng: random.Random) -> NetworkBuilder:
    n = _image(rng, (residual, plain))
    rng.choice((_classify, no_head, _sequence_head))(n)
    return n


def detector(rng: random.Random) -> NetworkBuilder:
    n = _image(rng, (cross_stage, cross_stage, upsample, plain, _pyramid_pool))
    rng.choice((_detect, _detect, no_head))(n)
    return n


def segmenter(rng: random.Random) -> NetworkBuilder:
    n = _image(rng, (inverted_residual, separable, upsample, upsample, plain))
    if rng.random() < 0.4:
        _probability_map(n)
    n.then("Sigmoid")
    return n


def _probability_map(n: NetworkBuilder) -> None:
    """Add a head that enlarges the features to a map of one channel."""
    conv(n, pick(n.rng, 8, 64, 8), 3, act="Relu", norm=n.rng.random() < 0.5)
    for outputs in (n.shape[1], 1):
        if n.shape[2] * n.shape[3] * outputs > 400_000:
            return
        transposed_conv(n, outputs)
        if outputs > 1:
            activate(n, "Relu")


def _pyramid_pool(n: NetworkBuilder, act: str, norm: bool) -> None:
    conv(n, max(8, n.shape[1] // 2), 1, act=act, norm=norm)
    parts = [n.value]
    for _ in range(3):
        parts.append(n.then("MaxPool", kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
    n.value, n.shape = n.op("Concat", parts, axis=1), (1, n.shape[1] * 4, *n.shape[2:])
    conv(n, n.shape[1] // 2, 1, act=act, norm=norm)


def _classify(n: NetworkBuilder) -> None:
    channels, classes = n.shape[1], pick(n.rng, 2, 1000)
    if n.rng.random() < 0.5:
        n.then("GlobalAveragePool", shape=(1, channels, 1, 1))
    else:
        n.then("ReduceMean", shape=(1, channels, 1, 1), axes=[2, 3], keepdims=1)
    n.then("Flatten", shape=(1, channels), axis=1)
    linear(n, classes)
    n.then("Softmax", axis=-1)


def _sequence_head(n: NetworkBuilder) -> None:
    """Treat the pixels of the feature map as a sequence of tokens, and classify each."""
    _, channels, height, width = n.shape
    n.reshape((1, channels, height * width))
    n.transpose(0, 2, 1)
    if n.rng.random() < 0.5:
        encoder(n, min(heads_of(channels), 8))
    linear(n, pick(n.rng, 16, 6000))
    n.then("Softmax", axis=-1)


def _detect(n: NetworkBuilder) -> None:
    """Add a detection head: boxes and classes of each position, decoded."""
    rng = n.rng
    classes = pick(rng, 1, 80)
    _, channels, height, width = n.shape
    features, places = n.value, height * width
    conv(n, channels, 3, act="Silu")
    conv(n, 64, 1)
    n.reshape((1, 4, 16, places))
    n.transpose(0, 2, 1, 3)
    n.then("Softmax", axis=1)
    n.then("Conv", n.weight(1, 16, 1, 1, fan_in=16), shape=(1, 1, 4, places), kernel_shape=[1, 1])
    n.reshape((1, 4, places))
    low = n.op("Slice", [n.value, n.ints([0]), n.ints([2]), n.ints([1])])
    high = n.op("Slice", [n.value, n.ints([2]), n.ints([4]), n.ints([1])])
    anchors = n.weight(1, 2, places)
    first, last = n.op("Sub", [anchors, low]), n.op("Add", [anchors, high])
    middle = n.op("Div", [n.op("Add", [first, last]), n.scalar(2)])
    boxes = n.op("Concat", [middle, n.op("Sub", [last, first])], axis=1)
    boxes = n.op("Mul", [boxes, n.scalar(8)])
    n.value, n.shape = features, (1, channels, height, width)
    conv(n, classes, 1)
    n.reshape((1, classes, places))
    n.then("Sigmoid")
    n.value, n.shape = n.op("Concat", [boxes, n.value], axis=1), (1, 4 + classes, places)
    if rng.random() < 0.5:
        n.transpose(0, 2, 1)
