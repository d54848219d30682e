"""How many operations an operator performs: a table from its name to a function of shapes and attributes.

A multiply-add counts as two. Operators that only move data count zero; those not in the table count one operation per
element written, which is right for anything elementwise and harmless elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operator with the shapes it is called with: all that its cost depends on.

    A missing optional input or output, and a tensor of unknown rank, is None; an unknown dimension counts as 1.
    """

    op_type: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> Shape:
        """Shape of an input; that of a scalar where it is missing."""
        return (self.inputs[index] or ()) if index < len(self.inputs) else ()

    def output(self, index: int = 0) -> Shape:
        """Shape of an output; that of a scalar where it is missing."""
        return (self.outputs[index] or ()) if index < len(self.outputs) else ()

    @property
    def written(self) -> int:
        """Elements of the first output."""
        return prod(self.output())


Rule = Callable[[Call], float]
_RULES: dict[str, Rule] = {}


def flops(call: Call) -> float:
    """Operations of one call.

    Examples
    --------
    >>> flops(Call("MatMul", ((8, 16), (16, 4)), ((8, 4),)))
    1024
    >>> flops(Call("Reshape", ((8, 16), (1,)), ((128,),)))
    0
    """
    return _RULES.get(call.op_type, _elementwise)(call)


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


def _elementwise(call: Call) -> float:
    return call.written


def _per_element(count: int) -> Rule:
    return lambda call: count * prod(call.input(0))


@_rule(
    "BitCast", "Cast", "CastLike", "Compress", "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape",
    "DepthToSpace", "Expand", "ExpandDims", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "MaxUnpool", "NonZero", "OneHot", "Pad", "QLinearConcat", "Range", "Reshape", "ReverseSequence",
    "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert",
    "SequenceLength", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Tile",
    "Transpose", "Trilu", "Unsqueeze",
)  # fmt: skip
def _nothing(call: Call) -> float:
    return 0


@_rule(
    "MatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "FusedMatMul",
    "TransposeMatMul",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
)
def _matmul(call: Call) -> float:
    left = call.input(0)
    inner = left[-2] if call.attributes.get("transA") and len(left) > 1 else left[-1] if left else 1
    return 2 * call.written * inner


@_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _matmul_nbits(call: Call) -> float:
    return 2 * call.written * int(call.attributes["K"])


@_rule("Gemm", "FusedGemm", "GemmFastGelu", "QGemm")
def _gemm(call: Call) -> float:
    left = call.input(0)
    inner = (left[0] if call.attributes.get("transA") else left[-1]) if left else 1
    biased = len(call.inputs) > 2 and call.inputs[2] is not None and call.op_type in ("Gemm", "FusedGemm")
    return 2 * call.written * inner + (call.written if biased else 0)


@_rule("Conv", "FusedConv", "ConvInteger", "NhwcConv", "NhwcFusedConv", "DeformConv", "CausalConvWithState")
def _conv(call: Call) -> float:
    # [M, C / group, *kernel]: each output element needs one product per weight of its filter.
    weight, biased = (
        call.input(1),
        len(call.inputs) > 2 and call.inputs[2] is not None and call.op_type != "ConvInteger",
    )
    return 2 * call.written * prod(weight[1:]) + (call.written if biased else 0)


@_rule("QLinearConv")
def _qlinear_conv(call: Call) -> float:
    biased = len(call.inputs) > 8 and call.inputs[8] is not None
    return 2 * call.written * prod(call.input(3)[1:]) + (call.written if biased else 0)


@_rule("ConvTranspose", "ConvTransposeWithDynamicPads")
def _conv_transpose(call: Call) -> float:
    # [C, M / group, *kernel]: each *input* element is spread over its filter.
    biased = len(call.inputs) > 2 and call.inputs[2] is not None
    return 2 * prod(call.input(0)) * prod(call.input(1)[1:]) + (call.written if biased else 0)


@_rule("Einsum")
def _einsum(call: Call) -> float:
    equation = call.attributes.get("equation", "")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    sizes: dict[str, int] = {}
    for term, shape in zip(text.split("->")[0].replace(" ", "").split(","), call.inputs, strict=False):
        sizes.update(zip(term.replace(".", ""), reversed(shape or ()) if "." in term else shape or (), strict=False))
    return (2 if len(call.inputs) > 1 else 1) * max(prod(sizes.values()), call.written)


def _recurrent(gates: int) -> Rule:
    def rule(call: Call) -> float:
        # X [tokens, batch, inputs], W [directions, gates * hidden, inputs], R [directions, gates * hidden, hidden]
        first, weight, recurrence = call.input(0), call.input(1), call.input(2)
        if len(first) < 3 or len(weight) < 3 or len(recurrence) < 3:
            return call.written
        hidden = int(call.attributes.get("hidden_size", min(recurrence[1:])))
        per_step = 2 * gates * hidden * (first[2] + hidden) + (4 + gates) * hidden
        return weight[0] * first[0] * first[1] * per_step

    return rule


_RULES.update(RNN=_recurrent(1), GRU=_recurrent(3), LSTM=_recurrent(4), DynamicQuantizeLSTM=_recurrent(4))


def _core_attention(batch: int, heads: int, queries: int, keys: int, qk_size: int, v_size: int) -> float:
    """Scores, softmax (five operations each: maximum, difference, exponent, sum, division), mixing of values."""
    return batch * heads * queries * keys * (2 * qk_size + 2 * v_size + 5)


@_rule("Attention")
def _attention(call: Call) -> float:
    query = call.input(0)
    if "q_num_heads" in call.attributes or len(query) == 4:
        return _standard_attention(call)
    # com.microsoft: input [batch, tokens, inputs], weights [inputs, 3 * hidden], past [2, batch, heads, past, size]
    weight, heads = call.input(1), int(call.attributes.get("num_heads", 1))
    if len(query) < 3 or len(weight) < 2:
        return call.written
    batch, tokens, inputs = query
    size = weight[1] // 3 // heads
    past = call.input(4)
    keys = tokens + (past[3] if len(past) == 5 else 0)
    return 2 * batch * tokens * inputs * weight[1] + _core_attention(batch, heads, tokens, keys, size, size)


def _standard_attention(call: Call) -> float:
    """ONNX's own: [batch, heads, tokens, size], or [batch, tokens, heads * size] with head counts as attributes."""
    query, key, value = call.input(0), call.input(1), call.input(2)
    past = call.input(4)
    past_tokens = past[2] if len(past) == 4 else 0
    if len(query) == 4 and len(key) == 4 and len(value) == 4:
        return _core_attention(query[0], query[1], query[2], key[2] + past_tokens, query[3], value[3])
    if len(query) != 3 or len(key) != 3 or len(value) != 3:
        return call.written
    heads, kv_heads = int(call.attributes["q_num_heads"]), int(call.attributes.get("kv_num_heads", 1))
    return _core_attention(query[0], heads, query[1], key[1] + past_tokens, query[2] // heads, value[2] // kv_heads)


@_rule("MultiHeadAttention", "DecoderMaskedMultiHeadAttention")
def _multi_head(call: Call) -> float:
    query, key, heads, past = call.input(0), call.input(1), int(call.attributes["num_heads"]), call.input(6)
    if len(query) < 3:
        return call.written
    packed = len(query) == 5
    tokens, size = query[1], query[4] if packed else query[2] // heads
    keys = tokens if packed or not key else key[1] if len(key) == 3 else key[2]
    return _core_attention(query[0], heads, tokens, keys + (past[2] if len(past) == 4 else 0), size, size)


@_rule("GroupQueryAttention", "SparseAttention")
def _group_query(call: Call) -> float:
    query, past = call.input(0), call.input(3)
    heads, kv_heads = int(call.attributes["num_heads"]), int(call.attributes["kv_num_heads"])
    if len(query) != 3:
        return call.written
    packed = len(call.inputs) < 2 or call.inputs[1] is None
    size = query[2] // (heads + 2 * kv_heads if packed else heads)
    rotary = 6 * query[0] * query[1] * (heads + kv_heads) * size if call.attributes.get("do_rotary") else 0
    return rotary + _core_attention(
        query[0], heads, query[1], query[1] + (past[2] if len(past) == 4 else 0), size, size
    )


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
    "HardSwish",
}
for _count, _names in _PER_ELEMENT.items():
    _RULES.update(dict.fromkeys(_names.split(), _per_element(_count)))


@_rule("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
def _pool(call: Call) -> float:
    return float(call.written * prod(call.attributes.get("kernel_shape", (1,))))


@_rule("GatherBlockQuantized")
def _gather_blocks(call: Call) -> float:
    return 2 * call.written


@_rule("Resize", "Upsample", "GridSample")
def _resize(call: Call) -> float:
    mode = call.attributes.get("mode", "nearest")
    text = mode.decode() if isinstance(mode, bytes) else str(mode)
    taps = {"linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}.get(text, 0)
    return call.written * 2 * taps**2


@_rule("DFT", "STFT")
def _fourier(call: Call) -> float:
    length = max(call.output() or (1,))
    return 5 * call.written / 2 * max(1, length.bit_length() - 1)


@_rule("NonMaxSuppression")
def _suppress(call: Call) -> float:
    boxes = prod(call.input(0)[:2])
    return 10 * boxes * max(1, boxes.bit_length())
