"""Number of operations of an operator: a table from its name to a function of shapes and attributes.

A multiply-add counts as two. Operators that only move data count zero; those missing from the table count one operation
per element written, which is right for elementwise operators and harmless elsewhere.
"""

from __future__ import annotations

from math import prod

from . import attention_flops as attentionflops
from . import contrib_flops as rareflops
from .op_call import FlopsRule, OpCall, register_in

_RULES: dict[str, FlopsRule] = {**attentionflops.RULES, **rareflops.RULES}
_rule = register_in(_RULES)


def flops(call: OpCall) -> float:
    """Return the operations of one call.

    Examples
    --------
    >>> flops(OpCall("MatMul", ((8, 16), (16, 4)), ((8, 4),)))
    1024
    >>> flops(OpCall("Reshape", ((8, 16), (1,)), ((128,),)))
    0
    """
    return _RULES.get(call.op_type, _elementwise)(call)


def _elementwise(call: OpCall) -> float:
    return call.written


def _per_element(count: int) -> FlopsRule:
    return lambda call: count * prod(call.input(0))


@_rule(
    "BitCast", "Cast", "CastLike", "Compress", "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape",
    "DepthToSpace", "Expand", "ExpandDims", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "MaxUnpool", "NonZero", "OneHot", "Pad", "QLinearConcat", "Range", "Reshape", "ReverseSequence",
    "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert",
    "SequenceLength", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Tile",
    "Transpose", "Trilu", "Unsqueeze",
)  # fmt: skip
def _nothing(call: OpCall) -> float:
    return 0


@_rule(
    "MatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "FusedMatMul",
    "TransposeMatMul",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger16",
    "FusedMatMulActivation",
    "SparseToDenseMatMul",
    "QOrderedMatMul",
    "MatMulBlockQuantizedFp4Weight",
    "MatMulBlockQuantizedFp8Weight",
)
def _matmul(call: OpCall) -> float:
    left = call.input(0)
    inner = left[-2] if call.attributes.get("transA") and len(left) > 1 else left[-1] if left else 1
    return 2 * call.written * inner


@_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _matmul_nbits(call: OpCall) -> float:
    return 2 * call.written * int(call.attributes["K"])


@_rule("Gemm", "FusedGemm", "GemmFastGelu", "GemmFloat8", "QGemm")
def _gemm(call: OpCall) -> float:
    left = call.input(0)
    inner = (left[0] if call.attributes.get("transA") else left[-1]) if left else 1
    biased = len(call.inputs) > 2 and call.inputs[2] is not None and call.op_type in ("Gemm", "FusedGemm")
    return 2 * call.written * inner + (call.written if biased else 0)


@_rule("Conv", "FusedConv", "ConvInteger", "NhwcConv", "NhwcFusedConv", "DeformConv", "CausalConvWithState")
def _conv(call: OpCall) -> float:
    # [M, C / group, *kernel]: each output element needs one product per weight of its filter.
    weight, biased = (
        call.input(1),
        len(call.inputs) > 2 and call.inputs[2] is not None and call.op_type != "ConvInteger",
    )
    return 2 * call.written * prod(weight[1:]) + (call.written if biased else 0)


@_rule("QLinearConv")
def _qlinear_conv(call: OpCall) -> float:
    biased = len(call.inputs) > 8 and call.inputs[8] is not None
    return 2 * call.written * prod(call.input(3)[1:]) + (call.written if biased else 0)


@_rule("ConvTranspose", "ConvTransposeWithDynamicPads")
def _conv_transpose(call: OpCall) -> float:
    # [C, M / group, *kernel]: each *input* element is spread over its filter.
    biased = len(call.inputs) > 2 and call.inputs[2] is not None
    return 2 * prod(call.input(0)) * prod(call.input(1)[1:]) + (call.written if biased else 0)


@_rule("Einsum")
def _einsum(call: OpCall) -> float:
    equation = call.attributes.get("equation", "")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    sizes: dict[str, int] = {}
    for term, shape in zip(text.split("->")[0].replace(" ", "").split(","), call.inputs, strict=False):
        sizes.update(zip(term.replace(".", ""), reversed(shape or ()) if "." in term else shape or (), strict=False))
    return (2 if len(call.inputs) > 1 else 1) * max(prod(sizes.values()), call.written)


def _recurrent(gates: int) -> FlopsRule:
    def rule(call: OpCall) -> float:
        # X [tokens, batch, inputs], W [directions, gates * hidden, inputs], R [directions, gates * hidden, hidden]
        first, weight, recurrence = call.input(0), call.input(1), call.input(2)
        if len(first) < 3 or len(weight) < 3 or len(recurrence) < 3:
            return call.written
        hidden = int(call.attributes.get("hidden_size", min(recurrence[1:])))
        per_step = 2 * gates * hidden * (first[2] + hidden) + (4 + gates) * hidden
        return weight[0] * first[0] * first[1] * per_step

    return rule


_RULES.update(RNN=_recurrent(1), GRU=_recurrent(3), LSTM=_recurrent(4), DynamicQuantizeLSTM=_recurrent(4))


# Operations per element of the first input.
_PER_ELEMENT = {
    1: "ReduceMax ReduceMin ReduceMean ReduceSum ReduceProd ReduceL1 ArgMax ArgMin CumSum TopK GlobalAveragePool "
    "GlobalMaxPool QLinearGlobalAveragePool QLinearReduceMean ReduceSumInteger",
    2: "ReduceL2 ReduceSumSquare ReduceLogSum BatchNormalization HardSigmoid",
    3: "RotaryEmbedding QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearAdd QLinearMul",
    4: "RMSNormalization SimplifiedLayerNormalization LpNormalization Sigmoid Tanh Erf Exp Log Pow Sqrt Softplus Elu "
    "Selu Celu Mish",
    5: "Softmax LogSoftmax Hardmax QLinearSoftmax BiasSoftmax ReduceLogSumExp SkipSimplifiedLayerNormalization",
    7: "LayerNormalization InstanceNormalization GroupNormalization GroupNorm MeanVarianceNormalization",
    8: "SkipLayerNormalization EmbedLayerNormalization SkipGroupNorm LRN Gelu FastGelu BiasGelu QuickGelu Swish "
    "HardSwish SwiGLU BiasSplitGelu",
}
for _count, _names in _PER_ELEMENT.items():
    _RULES.update(dict.fromkeys(_names.split(), _per_element(_count)))


@_rule("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
def _pool(call: OpCall) -> float:
    return float(call.written * prod(call.attributes.get("kernel_shape", (1,))))


@_rule("GatherBlockQuantized")
def _gather_blocks(call: OpCall) -> float:
    return 2 * call.written


@_rule("Resize", "Upsample", "GridSample")
def _resize(call: OpCall) -> float:
    mode = call.attributes.get("mode", "nearest")
    text = mode.decode() if isinstance(mode, bytes) else str(mode)
    taps = {"linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}.get(text, 0)
    return call.written * 2 * taps**2


@_rule("DFT", "STFT")
def _fourier(call: OpCall) -> float:
    length = max(call.output() or (1,))
    return 5 * call.written / 2 * max(1, length.bit_length() - 1)


@_rule("NonMaxSuppression")
def _suppress(call: OpCall) -> float:
    boxes = prod(call.input(0)[:2])
    return 10 * boxes * max(1, boxes.bit_length())
