"""Builds a network block by block: tensors and their shapes, and the convolution that most blocks use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"
NOISE = np.random.default_rng(0).standard_normal(65_521).astype(np.float32)
"""Random numbers from which weights are taken: drawing each would take longer than measuring the network."""
_OPSET = 17


class NetworkBuilder:
    """An ONNX model under construction; the next block reads its current tensor (`value`, of `shape`).

    Parameters
    ----------
    shape : tuple of int
        Of the input.
    rng : random.Random
        Source of all random choices.
    dtype : int
        ONNX's number of the input's dtype.
    """

    def __init__(self, shape: tuple[int, ...], rng: random.Random, dtype: int = TensorProto.FLOAT) -> None:
        self.rng = rng
        self.value, self.shape = "x", shape
        self.scales: Literal["", "before", "behind"] = ""
        """Where convolutions are followed by an affine operation: before or after (``behind``) the activation."""
        self.quantises_outputs = False
        """Whether the outputs of 8-bit products and convolutions are quantised as well as their inputs."""
        self._input = helper.make_tensor_value_info("x", dtype, shape)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def op(self, op_type: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its first output; the second is ``NAME.1``, and so on."""
        name = f"v{len(self._nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self._nodes.append(helper.make_node(op_type, list(inputs), names, name=f"n{name}", domain=domain, **attributes))
        return name

    def then(self, op_type: str, *more: str, shape: tuple[int, ...] | None = None, **attributes: Any) -> str:
        """Add a node whose first input is the current tensor; its output becomes the current tensor."""
        self.value = self.op(op_type, [self.value, *more], **attributes)
        self.shape = self.shape if shape is None else shape
        return self.value

    def constant(self, array: np.ndarray) -> str:
        """Add an initialiser and return its name."""
        name = f"c{len(self._initializers)}"
        self._initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int = 1) -> str:
        """Add random weights around zero, scaled so that activations keep their magnitude."""
        array = np.resize(NOISE[self.rng.randrange(60_000) :], shape) / np.float32(max(1, fan_in)) ** 0.5
        return self.constant(array.astype(np.float32))

    def scalar(self, value: float) -> str:
        """Add a scalar constant."""
        return self.constant(np.array(value, np.float32))

    def ints(self, values: Sequence[int]) -> str:
        """Add a constant vector of int64."""
        return self.constant(np.array(values, np.int64))

    def reshape(self, shape: tuple[int, ...]) -> str:
        """Reshape the current tensor."""
        return self.then("Reshape", self.ints(shape), shape=shape)

    def transpose(self, *order: int) -> str:
        """Transpose the current tensor."""
        return self.then("Transpose", shape=tuple(self.shape[i] for i in order), perm=list(order))

    def model(self) -> bytes:
        """Return the ONNX model, whose output is the current tensor."""
        output = helper.make_empty_tensor_value_info(self.value)
        graph = helper.make_graph(self._nodes, "network", [self._input], [output], self._initializers)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
        inferred = onnx.shape_inference.infer_shapes(model)
        kinds = {info.name: info for info in inferred.graph.value_info}
        kinds.update({info.name: info for info in inferred.graph.output})
        dtype = kinds[self.value].type.tensor_type.elem_type or TensorProto.FLOAT
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(self.value, dtype, self.shape))
        return model.SerializeToString()


def pick(rng: random.Random, low: int, high: int, step: int = 1) -> int:
    """Return a log-uniformly distributed random size."""
    return max(step, int(low * float(high / low) ** rng.random() / step + 0.5) * step)


def conv(
    n: NetworkBuilder,
    outputs: int,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    groups: int = 1,
    act: str = "",
    norm: bool = False,
) -> None:
    """Add a 2-D convolution that keeps the size except for its stride, with optional normalisation and activation."""
    _, inputs, height, width = n.shape
    (kh, kw), (sh, sw) = ((k, k) if isinstance(k, int) else k for k in (kernel, stride))
    operands = [n.value, n.weight(outputs, inputs // groups, kh, kw, fan_in=inputs // groups * kh * kw)]
    if not norm or n.rng.random() < 0.2:
        operands.append(n.weight(outputs))
    out = (1, outputs, (height - 1) // sh + 1, (width - 1) // sw + 1)
    n.value = n.op("Conv", operands, kernel_shape=[kh, kw], strides=[sh, sw], group=groups, pads=[kh // 2, kw // 2] * 2)
    n.shape = out
    if norm:
        mean, scale = n.weight(outputs), n.constant(np.ones(outputs, np.float32))
        n.then("BatchNormalization", scale, mean, mean, scale)
    if n.scales == "before":
        affine(n)
    activate(n, act)
    if n.scales and act:
        affine(n)


def affine(n: NetworkBuilder) -> None:
    """Add a scale and a shift, by a scalar or per channel."""
    shape = n.rng.choice(((1,), (1,), (n.shape[1], *(1 for _ in n.shape[2:]))))
    for op_type in n.rng.choice((("Mul", "Add"), ("Mul", "Add"), ("Mul",), ("Add",))):
        n.then(op_type, n.weight(*shape))


def activate(n: NetworkBuilder, act: str) -> None:
    """Add an activation, as one operator or as the sequence that exporters write."""
    before = n.value
    if act in ("Relu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Elu"):
        n.then(act)
    elif act == "Relu6":
        n.then("Clip", n.scalar(0), n.scalar(6))
    elif act == "Silu":
        n.value = n.op("Mul", [before, n.op("Sigmoid", [before])])
    elif act == "hardswish":
        clipped = n.op("Clip", [n.op("Add", [before, n.scalar(3)]), n.scalar(0), n.scalar(6)])
        if n.rng.random() < 0.3:
            n.value = n.op("Mul", [before, n.op("Div", [clipped, n.scalar(6)])])
        else:
            n.value = n.op("Div", [n.op("Mul", [before, clipped]), n.scalar(6)])
    elif act == "hard-gate":
        n.value = n.op("Mul", [before, n.op("HardSigmoid", [before])])
    elif act == "Gelu":
        n.value = n.op("Add", [n.op("Erf", [n.op("Div", [before, n.scalar(2**0.5)])]), n.scalar(1)])
        if n.rng.random() < 0.5:
            n.value = n.op("Mul", [n.op("Mul", [before, n.value]), n.scalar(0.5)])
        else:
            n.value = n.op("Mul", [before, n.op("Mul", [n.scalar(0.5), n.value])])
    elif act == "PRelu":
        n.then("PRelu", n.weight(n.shape[1], *(1 for _ in n.shape[2:])))


ACTS = ("Relu", "Relu6", "Silu", "hardswish", "HardSwish", "hard-gate", "LeakyRelu", "Relu", "Silu", "")
