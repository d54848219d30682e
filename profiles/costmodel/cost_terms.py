"""What the time of one operator depends on: its kind, the sizes that count for that kind, and marks of how it is used.

A kind shares one fitted curve. Sizes are natural logarithms, so that curves are products of powers; a mark (an
operator's name, what it follows) shifts the curve, and one that was rarely seen hardly shifts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, log, log2, prod
from typing import Any

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
_MOVES = frozenset(
    "Transpose Concat Slice Gather Pad Split Resize Expand Tile Cast GatherElements GatherND ScatterND DepthToSpace "
    "SpaceToDepth Upsample OneHot Trilu".split()
)
_SKINNY_ROWS = 4
_FEW_CHANNELS = 8
_LANES = 16
_PAGE_ELEMENTS = 4096


@dataclass(frozen=True)
class CostTerm:
    """A summand of a segment's time."""

    kind: str
    sizes: tuple[tuple[str, float], ...] = ()
    marks: tuple[str, ...] = ()
    flops: float = 0.0
    size_bytes: float = 0.0


@dataclass(frozen=True)
class OpContext:
    """What lies around an operator in its segment."""

    follows: str = ""
    """The heavy operator that a chain of light ones up to here began with (``conv1``: directly behind)."""
    eight_bit: bool = False
    """Between dequantise and quantise, or an operator of integers."""
    dequantised: bool = False
    quantised_after: bool = False
    blocked: bool = False
    """What it reads is still in the layout of convolutions."""


def is_integer_op(work: OpInstance) -> bool:
    """Whether an operator multiplies integers by itself."""
    return work.op_type in _INTEGER


def term(work: OpInstance, context: OpContext) -> CostTerm:
    """The summand of one operator."""
    op = work.op_type
    if op in CONVOLUTIONS and len(work.inputs) > 1 and work.inputs[1] is not None and len(work.inputs[1].shape) > 2:
        return _convolution(work, context)
    if op in PRODUCTS:
        return _product(work, context)
    if op in _RECURRENT:
        return _recurrent(work)
    if op in ELEMENTWISE or op == "BatchNormalization":
        return _elementwise(work, context)
    if op in _ROWS:
        return _rows(work, context)
    size = _read(work) + _made(work)
    if op in POOLS:
        window = prod(work.attributes.get("kernel_shape") or [1])
        channels = work.outputs[0].shape[1] if len(work.outputs[0].shape) > 1 else 1
        sizes = {"bytes": size, "window": window, "channels": channels, "flops": work.flops}
        return _term("pool", sizes, [f"op={op}"], work.flops, size)
    if op in VIEWS:
        return _term("view", {"bytes": _made(work)}, [f"op={op}"], 0.0, 0.0)
    if op in _MOVES:
        return _move(work, context)
    if op in QUANTISING:
        return _term("quantise", {"bytes": size}, [f"op={op}", f"op={op} edge={not context.eight_bit}"], 0.0, size)
    return _term("other", {"bytes": work.size_bytes, "flops": work.flops}, [f"op={op}"], work.flops, work.size_bytes)


def layout_term(tensor: OpTensor, where: str) -> CostTerm:
    """The summand of bringing a tensor into the layout of convolutions, or out of it.

    Whether rows of pixels lie a power of two apart decides it: they then fall on the same lines of a cache.
    """
    channels, pixels = (tensor.shape[1] if len(tensor.shape) > 1 else 1), prod(tensor.shape[2:])
    apart = log2(gcd(max(1, pixels), _PAGE_ELEMENTS))
    kind = "layout in" if where in ("enter", "in") else "layout out"
    made = _term(kind, {"bytes": tensor.size_bytes, "channels": channels}, [where], 0.0, 2.0 * tensor.size_bytes)
    conflict = max(0.0, apart - 7) * max(0.0, _log(pixels) - 5) / 4
    extra = (("apart", round(apart / 2, 4)), ("conflict", round(conflict, 4)))
    return CostTerm(made.kind, made.sizes + extra, made.marks, 0.0, made.size_bytes)


def boundary_term(tensor: OpTensor, way: str) -> CostTerm:
    """The summand of a tensor that enters or leaves a segment."""
    share = 0.1 if way == "in" else 1.0
    return _term("border", {"bytes": tensor.size_bytes}, [way], 0.0, share * tensor.size_bytes)


def _convolution(work: OpInstance, context: OpContext) -> CostTerm:
    weight = work.inputs[1]
    assert weight is not None
    out = work.outputs[0]
    groups = int(work.attributes.get("group", 1))
    kernel, window = weight.shape[2:], prod(weight.shape[2:])
    pixels, stride = prod(out.shape[2:]), prod(work.attributes.get("strides") or [1])
    inputs = weight.shape[0] if work.op_type == "ConvTranspose" else weight.shape[1]
    outputs = out.shape[1] if len(out.shape) > 1 else 1
    if work.op_type == "ConvTranspose":
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
        "flops": work.flops, "inputs": inputs, "outputs": outputs, "pixels": pixels, "window": window,
        "stride": stride, "narrow": narrow, "width": width,
    }  # fmt: skip
    marks = [work.op_type] if context.eight_bit else [f"bias={len(work.inputs) > 2 and work.inputs[2] is not None}"]
    marks += ["ragged out"] * (outputs % _LANES != 0) + ["ragged in"] * (inputs % _LANES != 0)
    weights = weight.elements * (1 if context.eight_bit else 4)
    return _term(kind + _bits(context), sizes, marks, work.flops, _read(work) + _made(work) + weights)


def _product(work: OpInstance, context: OpContext) -> CostTerm:
    out = work.outputs[0].shape or (1,)
    columns, depth = out[-1], max(1, round(work.flops / 2 / max(1, prod(out))))
    right = work.inputs[1] if len(work.inputs) > 1 else None
    fixed = context.eight_bit or (right is not None and right.constant)
    if fixed:
        rows, batch, kind = prod(out[:-1]), 1, "product"
        kind = "product of few rows" if rows <= _SKINNY_ROWS else kind
    else:
        rows, batch, kind = (out[-2] if len(out) > 1 else 1), prod(out[:-2]), "product of two"
    sizes = {"flops": work.flops, "rows": rows, "depth": depth, "columns": columns, "batch": batch}
    weights = depth * columns * (1 if context.eight_bit else 4) if fixed else 0
    return _term(kind + _bits(context), sizes, [work.op_type], work.flops, _read(work) + _made(work) + weights)


def _recurrent(work: OpInstance) -> CostTerm:
    given, out = work.inputs[0], work.outputs[0].shape
    steps = given.shape[0] if given is not None and given.shape else 1
    width = given.shape[-1] if given is not None and given.shape else 1
    ways = out[1] if len(out) > 3 else 1
    hidden = int(work.attributes.get("hidden_size", out[-1] if out else 1))
    sizes = {"steps": steps, "hidden": hidden, "width": width, "flops": work.flops}
    marks = [work.op_type, f"ways={ways}"]
    weights = 16 * ways * hidden * (hidden + width)
    return _term("recurrent", sizes, marks, work.flops, _read(work) + _made(work) + weights)


def _elementwise(work: OpInstance, context: OpContext) -> CostTerm:
    op, out = work.op_type, work.outputs[0]
    behind, spread = context.follows or "none", _spread(work)
    marks = [f"op={op}", f"behind={behind}", f"op={op} behind={behind}", f"two={len(work.varying) > 1}"]
    marks += [f"spread={spread}", f"spread={spread} behind={behind}"]
    if context.dequantised or context.eight_bit:
        marks.append(f"dequantised={context.dequantised} quantised={context.quantised_after}")
    size = _read(work) + _made(work)
    kind = "elementwise behind" if context.follows else "elementwise"
    return _term(kind, {"bytes": size, "elements": out.elements}, marks, work.flops, size)


def _spread(work: OpInstance) -> str:
    """How the smallest of its inputs is spread over what an operator makes: a number, a row, a value per channel."""
    made = work.outputs[0]
    least = min((t for t in work.inputs if t is not None), key=lambda t: t.elements, default=made)
    if least.elements == made.elements:
        return "none"
    if least.elements <= 1:
        return "number"
    return "rows" if least.shape[-1] == made.shape[-1] else "channels"


def _rows(work: OpInstance, context: OpContext) -> CostTerm:
    given = work.inputs[0]
    shape = given.shape if given is not None and given.shape else (1,)
    width, last = _along(work, shape)
    marks = [f"op={work.op_type}", f"last={last}", f"op={work.op_type} last={last}"]
    marks.append(f"dequantised={context.dequantised} quantised={context.quantised_after}")
    sizes = {"bytes": _read(work), "width": width, "count": prod(shape) / max(1, width)}
    return _term("rows", sizes, marks, work.flops, _read(work) + _made(work))


def _along(work: OpInstance, shape: Sequence[int]) -> tuple[int, bool]:
    """How many numbers are computed together, and whether they lie beside each other."""
    op, rank, made = work.op_type, len(shape), work.outputs[0].shape
    axis: Any = work.attributes.get("axis", -1)
    axes: Any = work.attributes.get("axes")
    if op == "InstanceNormalization":
        return prod(shape[2:]), True
    if op == "LayerNormalization":
        return prod(shape[int(axis) % rank :]), True
    if op.startswith("Reduce"):
        if axes is None:  # an input: what it leaves tells
            gone = [i for i in range(rank) if len(made) != rank or made[i] != shape[i]]
            return max(1, prod(shape) // max(1, prod(made))), len(made) != rank or rank - 1 in gone
        axes = [i % rank for i in (axes if isinstance(axes, list) else [axes])]
        return prod(shape[i] for i in axes), rank - 1 in axes
    return shape[int(axis) % rank], int(axis) % rank == rank - 1


def _move(work: OpInstance, context: OpContext) -> CostTerm:
    op, out = work.op_type, work.outputs[0].shape
    how = str(work.attributes.get("axis", "-"))
    if op == "Transpose":
        order = work.attributes.get("perm") or []
        how = f"rows kept={bool(order) and order[-1] == len(order) - 1}"
    elif op in ("Resize", "Upsample"):
        how = str(work.attributes.get("mode"))
    elif op == "Cast":
        how = str(work.attributes.get("to"))
    size = _made(work) + min(_read(work), _made(work))
    marks = [f"op={op}", f"op={op} {how}", f"op={op} blocked={context.blocked}"]
    return _term("move", {"bytes": size, "width": out[-1] if out else 1, "run": _run(work)}, marks, 0.0, size)


def _run(work: OpInstance) -> int:
    """How many numbers are copied from one place to one place."""
    given, made = work.inputs[0], work.outputs[0].shape
    if given is None or not made or not given.shape:
        return 1
    axis, rank = int(work.attributes.get("axis", 0)), len(given.shape)
    if work.op_type in ("Concat", "Split"):
        return prod((given.shape if work.op_type == "Concat" else made)[axis % rank :])
    if work.op_type == "Gather":
        return prod(given.shape[axis % rank + 1 :])
    if work.op_type == "Transpose":
        order = work.attributes.get("perm") or [0]
        return made[-1] if order[-1] == rank - 1 else 1
    changed = [i for i in range(min(rank, len(made))) if given.shape[i] != made[i]]
    return prod(made[changed[-1] :]) if changed else prod(made)


def _term(kind: str, sizes: dict[str, float], marks: list[str], flops: float, size_bytes: float) -> CostTerm:
    logs = tuple((name, round(_log(value), 4)) for name, value in sizes.items())
    return CostTerm(kind, logs, tuple(marks), float(flops), float(size_bytes))


def _bits(context: OpContext) -> str:
    return ", 8 bits" if context.eight_bit else ""


def _read(work: OpInstance) -> int:
    return sum(tensor.size_bytes for tensor in work.varying)


def _made(work: OpInstance) -> int:
    return sum(tensor.size_bytes for tensor in work.outputs)


def _log(value: float) -> float:
    return log(max(1.0, value))
