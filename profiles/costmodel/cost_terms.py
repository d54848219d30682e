"""The cost term of one operator: its kind, the sizes on which its time depends, and categorical features.

Operators of one kind share a fitted curve. Sizes are natural logarithms, so that curves are products of powers; a
categorical feature (an operator's name, its context) shifts the curve, by little where it was rarely observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, log, log2, prod
from typing import Any, Literal

import msgspec

from .op_instance import OpInstance, OpTensor

ELEMENTWISE = frozenset(
    "Relu Clip LeakyRelu HardSwish HardSigmoid Sigmoid Tanh Elu PRelu Add Sub Mul Div Erf Exp Log Pow Sqrt Abs Neg "
    "Floor Max Min Greater Less Equal Where Not And Or Gelu Softplus Cos Sin Reciprocal Ceil Round Sum Mean Celu Selu "
    "Mish GreaterOrEqual LessOrEqual Sign".split()
)
CONVOLUTIONS = frozenset("Conv ConvInteger ConvTranspose QLinearConv FusedConv".split())
PRODUCTS = frozenset("MatMul Gemm MatMulInteger FusedMatMul QLinearMatMul FusedGemm".split())
POOLS = frozenset("MaxPool AveragePool GlobalAveragePool GlobalMaxPool".split())
VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity".split())
QUANTISING = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear".split())
_INTEGER = frozenset("ConvInteger MatMulInteger QLinearConv QLinearMatMul".split())
_RECURRENT = frozenset("LSTM GRU RNN DynamicQuantizeLSTM".split())
_ROWS = frozenset(
    "Softmax LogSoftmax LayerNormalization InstanceNormalization ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd "
    "ReduceL2 ArgMax ArgMin TopK".split()
)
_DATA_MOVEMENTS = frozenset(
    "Transpose Concat Slice Gather Pad Split Resize Expand Tile Cast GatherElements GatherND ScatterND DepthToSpace "
    "SpaceToDepth Upsample OneHot Trilu".split()
)
_FEW_ROWS = 4
_FEW_CHANNELS = 8
_SIMD_LANES = 16
_PAGE_ELEMENTS = 4096
BOUNDARY = "border"
"""Kind of the terms of tensors that enter or leave a segment, as files of measured segments name it."""


class CostTerm(msgspec.Struct, frozen=True):
    """One term of the sum that is a segment's time."""

    kind: str
    sizes: tuple[tuple[str, float], ...] = ()
    """Name and natural logarithm of each size."""
    categories: tuple[str, ...] = msgspec.field(name="marks", default=())
    """Categorical features that apply."""
    flops: float = 0.0
    size_bytes: float = 0.0


@dataclass(frozen=True)
class OpContext:
    """The context of an operator in its segment."""

    follows: str = ""
    """The convolution or product at the start of the chain of elementwise operators up to here, and the distance to it
    (``conv1``: directly after a convolution)."""
    eight_bit: bool = False
    """Computed in 8 bits: between DequantizeLinear and QuantizeLinear, or an integer operator."""
    dequantised: bool = False
    quantised_after: bool = False
    blocked: bool = False
    """Its input is in the blocked layout of convolutions."""


def is_integer_op(op: OpInstance) -> bool:
    """Return whether an operator multiplies integers itself, without DequantizeLinear."""
    return op.op_type in _INTEGER


def op_term(op: OpInstance, context: OpContext) -> CostTerm:
    """Return the cost term of one operator."""
    op_type = op.op_type
    if op_type in CONVOLUTIONS and len(op.inputs) > 1 and op.inputs[1] is not None and len(op.inputs[1].shape) > 2:
        return _convolution(op, context)
    if op_type in PRODUCTS:
        return _product(op, context)
    if op_type in _RECURRENT:
        return _recurrent(op)
    if op_type in ELEMENTWISE or op_type == "BatchNormalization":
        return _elementwise(op, context)
    if op_type in _ROWS:
        return _rows(op, context)
    size = _input_bytes(op) + _output_bytes(op)
    if op_type in POOLS:
        window = prod(op.attributes.get("kernel_shape") or [1])
        channels = op.outputs[0].shape[1] if len(op.outputs[0].shape) > 1 else 1
        sizes = {"bytes": size, "window": window, "channels": channels, "flops": op.flops}
        return _term("pool", sizes, [f"op={op_type}"], op.flops, size)
    if op_type in VIEWS:
        return _term("view", {"bytes": _output_bytes(op)}, [f"op={op_type}"], 0.0, 0.0)
    if op_type in _DATA_MOVEMENTS:
        return _move(op, context)
    if op_type in QUANTISING:
        categories = [f"op={op_type}", f"op={op_type} edge={not context.eight_bit}"]
        return _term("quantise", {"bytes": size}, categories, 0.0, size)
    return _term("other", {"bytes": op.size_bytes, "flops": op.flops}, [f"op={op_type}"], op.flops, op.size_bytes)


def layout_term(tensor: OpTensor, position: Literal["enter", "in", "out", "leave"]) -> CostTerm:
    """Return the cost term of converting a tensor to the blocked layout of convolutions, or back.

    The time depends on whether rows of pixels are a power of two apart: they then compete for the same cache lines.

    Parameters
    ----------
    tensor : OpTensor
    position : {"enter", "in", "out", "leave"}
        To the layout, at the segment's boundary or inside it; from the layout, inside the segment or at its boundary.
    """
    channels, pixels = (tensor.shape[1] if len(tensor.shape) > 1 else 1), prod(tensor.shape[2:])
    alignment = log2(gcd(max(1, pixels), _PAGE_ELEMENTS))
    kind = "layout in" if position in ("enter", "in") else "layout out"
    sizes = {"bytes": tensor.size_bytes, "channels": channels}
    term = _term(kind, sizes, [position], 0.0, 2.0 * tensor.size_bytes)
    conflict = max(0.0, alignment - 7) * max(0.0, _log(pixels) - 5) / 4
    extra = (("apart", round(alignment / 2, 4)), ("conflict", round(conflict, 4)))
    return CostTerm(term.kind, term.sizes + extra, term.categories, 0.0, term.size_bytes)


def boundary_term(tensor: OpTensor, direction: Literal["in", "out"]) -> CostTerm:
    """Return the cost term of a tensor that enters or leaves a segment."""
    share = 0.1 if direction == "in" else 1.0
    return _term(BOUNDARY, {"bytes": tensor.size_bytes}, [direction], 0.0, share * tensor.size_bytes)


def _convolution(op: OpInstance, context: OpContext) -> CostTerm:
    weight = op.inputs[1]
    assert weight is not None
    out = op.outputs[0]
    groups = int(op.attributes.get("group", 1))
    kernel, window = weight.shape[2:], prod(weight.shape[2:])
    pixels, stride = prod(out.shape[2:]), prod(op.attributes.get("strides") or [1])
    inputs = weight.shape[0] if op.op_type == "ConvTranspose" else weight.shape[1]
    outputs = out.shape[1] if len(out.shape) > 1 else 1
    if op.op_type == "ConvTranspose":
        kind = "conv up"
    elif groups > 1:
        kind = "conv depthwise" if weight.shape[1] == 1 else "conv grouped"
    elif len(kernel) == 1 or (window > 1 and min(out.shape[2:], default=2) == 1):
        kind = "conv 1d"
    elif inputs < _FEW_CHANNELS:
        kind = "conv first"
    else:
        kind = "conv pointwise" if window == 1 else "conv dense"
    narrow, width = (pixels, window) if kind == "conv 1d" else (min(out.shape[2:], default=1), kernel[-1])
    sizes = {
        "flops": op.flops, "inputs": inputs, "outputs": outputs, "pixels": pixels, "window": window,
        "stride": stride, "narrow": narrow, "width": width,
    }  # fmt: skip
    categories = [op.op_type] if context.eight_bit else [f"bias={len(op.inputs) > 2 and op.inputs[2] is not None}"]
    categories += ["ragged out"] * (outputs % _SIMD_LANES != 0) + ["ragged in"] * (inputs % _SIMD_LANES != 0)
    weights = weight.elements * (1 if context.eight_bit else 4)
    return _term(kind + _bits(context), sizes, categories, op.flops, _input_bytes(op) + _output_bytes(op) + weights)


def _product(op: OpInstance, context: OpContext) -> CostTerm:
    out = op.outputs[0].shape or (1,)
    columns, depth = out[-1], max(1, round(op.flops / 2 / max(1, prod(out))))
    right = op.inputs[1] if len(op.inputs) > 1 else None
    fixed = context.eight_bit or (right is not None and right.constant)
    if fixed:
        rows, batch, kind = prod(out[:-1]), 1, "product"
        kind = "product of few rows" if rows <= _FEW_ROWS else kind
    else:
        rows, batch, kind = (out[-2] if len(out) > 1 else 1), prod(out[:-2]), "product of two"
    sizes = {"flops": op.flops, "rows": rows, "depth": depth, "columns": columns, "batch": batch}
    weights = depth * columns * (1 if context.eight_bit else 4) if fixed else 0
    return _term(kind + _bits(context), sizes, [op.op_type], op.flops, _input_bytes(op) + _output_bytes(op) + weights)


def _recurrent(op: OpInstance) -> CostTerm:
    shape, out = _first_shape(op), op.outputs[0].shape
    steps = shape[0] if shape else 1
    width = shape[-1] if shape else 1
    directions = out[1] if len(out) > 3 else 1
    hidden = int(op.attributes.get("hidden_size", out[-1] if out else 1))
    sizes = {"steps": steps, "hidden": hidden, "width": width, "flops": op.flops}
    categories = [op.op_type, f"ways={directions}"]
    weights = 16 * directions * hidden * (hidden + width)
    return _term("recurrent", sizes, categories, op.flops, _input_bytes(op) + _output_bytes(op) + weights)


def _elementwise(op: OpInstance, context: OpContext) -> CostTerm:
    name, behind, spread = f"op={op.op_type}", f"behind={context.follows or 'none'}", f"spread={_broadcast(op)}"
    categories = [name, behind, f"{name} {behind}", f"two={len(op.varying) > 1}", spread, f"{spread} {behind}"]
    if context.dequantised or context.eight_bit:
        categories.append(f"dequantised={context.dequantised} quantised={context.quantised_after}")
    size = _input_bytes(op) + _output_bytes(op)
    kind = "elementwise behind" if context.follows else "elementwise"
    return _term(kind, {"bytes": size, "elements": op.outputs[0].elements}, categories, op.flops, size)


def _broadcast(op: OpInstance) -> str:
    """Return how the smallest input is broadcast to the output: none, a scalar, along rows, or per channel."""
    output = op.outputs[0]
    smallest = min((t for t in op.inputs if t is not None), key=lambda t: t.elements, default=output)
    if smallest.elements == output.elements:
        return "none"
    if smallest.elements <= 1:
        return "number"
    return "rows" if smallest.shape[-1:] == output.shape[-1:] else "channels"


def _rows(op: OpInstance, context: OpContext) -> CostTerm:
    shape = _first_shape(op) or (1,)
    width, last = _reduced_extent(op, shape)
    categories = [f"op={op.op_type}", f"last={last}", f"op={op.op_type} last={last}"]
    categories.append(f"dequantised={context.dequantised} quantised={context.quantised_after}")
    sizes = {"bytes": _input_bytes(op), "width": width, "count": prod(shape) / max(1, width)}
    return _term("rows", sizes, categories, op.flops, _input_bytes(op) + _output_bytes(op))


def _reduced_extent(op: OpInstance, shape: Sequence[int]) -> tuple[int, bool]:
    """Return the number of elements that are reduced together, and whether they are contiguous."""
    rank, output = len(shape), op.outputs[0].shape
    axis: Any = op.attributes.get("axis", -1)
    axes: Any = op.attributes.get("axes")
    if op.op_type == "InstanceNormalization":
        return prod(shape[2:]), True
    if op.op_type == "LayerNormalization":
        return prod(shape[int(axis) % rank :]), True
    if op.op_type.startswith("Reduce"):
        if axes is None:  # given as an input: derived from the shape of the output
            reduced = [i for i in range(rank) if len(output) != rank or output[i] != shape[i]]
            return max(1, prod(shape) // max(1, prod(output))), len(output) != rank or rank - 1 in reduced
        axes = [i % rank for i in (axes if isinstance(axes, list) else [axes])]
        return prod(shape[i] for i in axes), rank - 1 in axes
    return shape[int(axis) % rank], int(axis) % rank == rank - 1


def _move(op: OpInstance, context: OpContext) -> CostTerm:
    out = op.outputs[0].shape
    variant = str(op.attributes.get("axis", "-"))
    if op.op_type == "Transpose":
        order = op.attributes.get("perm") or []
        variant = f"rows kept={bool(order) and order[-1] == len(order) - 1}"
    elif op.op_type in ("Resize", "Upsample"):
        variant = str(op.attributes.get("mode"))
    elif op.op_type == "Cast":
        variant = str(op.attributes.get("to"))
    size = _output_bytes(op) + min(_input_bytes(op), _output_bytes(op))
    name = f"op={op.op_type}"
    sizes = {"bytes": size, "width": out[-1] if out else 1, "run": _contiguous_elements(op)}
    return _term("move", sizes, [name, f"{name} {variant}", f"{name} blocked={context.blocked}"], 0.0, size)


def _contiguous_elements(op: OpInstance) -> int:
    """Return the number of elements that are copied contiguously."""
    shape, output = _first_shape(op), op.outputs[0].shape
    if not shape or not output:
        return 1
    axis, rank = int(op.attributes.get("axis", 0)), len(shape)
    if op.op_type in ("Concat", "Split"):
        return prod((shape if op.op_type == "Concat" else output)[axis % rank :])
    if op.op_type == "Gather":
        return prod(shape[axis % rank + 1 :])
    if op.op_type == "Transpose":
        order = op.attributes.get("perm") or [0]
        return output[-1] if order[-1] == rank - 1 else 1
    changed = [i for i in range(min(rank, len(output))) if shape[i] != output[i]]
    return prod(output[changed[-1] :]) if changed else prod(output)


def _first_shape(op: OpInstance) -> tuple[int, ...]:
    """Return the shape of the first input; empty for a scalar, and where it is missing."""
    return op.inputs[0].shape if op.inputs[0] is not None else ()


def _term(kind: str, sizes: Mapping[str, float], categories: list[str], flops: float, size_bytes: float) -> CostTerm:
    logs = tuple((name, round(_log(value), 4)) for name, value in sizes.items())
    return CostTerm(kind, logs, tuple(categories), float(flops), float(size_bytes))


def _bits(context: OpContext) -> str:
    return ", 8 bits" if context.eight_bit else ""


def _input_bytes(op: OpInstance) -> int:
    return sum(tensor.size_bytes for tensor in op.varying)


def _output_bytes(op: OpInstance) -> int:
    return sum(tensor.size_bytes for tensor in op.outputs)


def _log(value: float) -> float:
    return log(max(1.0, value))
