"""Standard operators that have the same output shapes as the ``com.microsoft`` ones which ONNX knows nothing about.

ONNX's shape inference stops at the first operator of another domain. In the copy of the model that it works on, each
such operator is replaced by a few standard ones that compute something else but of the same shape and dtype; inference
then runs through the whole model in one pass. A new operator is one small rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

_MS = "com.microsoft"
_NAMELESS = ""  # domain of operators that ONNX Runtime put into ONNX's own domain without asking


class StandIn:
    """Collects the standard nodes that stand in for one node while its rule runs.

    Parameters
    ----------
    node : onnx.NodeProto
        The node to stand in for.
    known_shapes : mapping of str to sequence of int
        Shapes of the model's constants.
    """

    def __init__(self, node: onnx.NodeProto, known_shapes: Mapping[str, Sequence[int]]) -> None:
        self.op_type = node.op_type
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.placeholders: list[onnx.ValueInfoProto] = []
        self._known_shapes = known_shapes
        self._prefix = f"{node.name}/stand-in"

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def wants(self, index: int) -> bool:
        """Whether the optional output is asked for."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def shape_of(self, index: int) -> Sequence[int] | None:
        """Shape of a constant input; None where it is not constant."""
        return self._known_shapes.get(self.inputs[index])

    def op(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a standard node and return the name of its output."""
        name = output or f"{self._prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """A constant vector of int64."""
        name = f"{self._prefix}/ints{len(self.initializers)}"
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))
        return name

    def tensor(self, shape: Sequence[int]) -> str:
        """A float tensor of that shape without any values."""
        name = f"{self._prefix}/tensor{len(self.placeholders)}"
        self.placeholders.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def split_heads(self, tensor: str, heads: int) -> str:
        """[batch, tokens, heads * size] -> [batch, heads, tokens, size]."""
        return self.op("Transpose", [self.op("Reshape", [tensor, self.ints([0, 0, heads, -1])])], perm=[0, 2, 1, 3])

    def pick(self, tensor: str, first: int, count: int, axis: int) -> str:
        """Some of the positions along an axis."""
        return self.op("Gather", [tensor, self.ints(range(first, first + count))], axis=axis)


Rule = Callable[[StandIn], None]
_RULES: dict[tuple[str, str], Rule] = {}


def _rule(*op_types: str, domain: str = _MS) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


def has_surrogate(domain: str, op_type: str) -> bool:
    """Whether a rule exists for an operator.

    Examples
    --------
    >>> has_surrogate("com.microsoft", "MatMulNBits"), has_surrogate("", "MatMul")
    (True, False)
    """
    return (domain, op_type) in _RULES


def stand_in(node: onnx.NodeProto, known_shapes: Mapping[str, Sequence[int]]) -> StandIn | None:
    """The standard nodes for a node of another domain; None where there is no rule."""
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        return None
    made = StandIn(node, known_shapes)
    rule(made)
    return made


# The last two are ONNX's own, but its inference gives them no shape.
@_rule("SimplifiedLayerNormalization", "GroupNormalization", "MeanVarianceNormalization", domain=_NAMELESS)
@_rule(
    "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasAdd", "BiasSoftmax", "RotaryEmbedding", "GroupNorm", "ScaledSiLU",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "Inverse", "Trilu", "MoE", "QMoE",
    "SimplifiedLayerNormalization",
)  # fmt: skip
def _like_first_input(s: StandIn) -> None:
    s.op("Identity", s.inputs[:1], s.outputs[0])


@_rule("STFT", domain=_NAMELESS)
def _stft(s: StandIn) -> None:
    # ONNX's inference overlooks that one side of a spectrum is the default: n // 2 + 1 of n bins, on axis 2.
    if s.attributes.get("onesided", 1) == 0:
        s.op("STFT", s.inputs, s.outputs[0], onesided=0)
        return
    one_more = s.op("Pad", [s.op("STFT", s.inputs, onesided=0), s.ints([0, 0, 0, 0, 0, 0, 1, 0])])
    s.op("Slice", [one_more, *(s.ints([n]) for n in (0, 2**31 - 1, 2, 2))], s.outputs[0])


@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm")
def _skip_norm(s: StandIn) -> None:
    s.op("Identity", s.inputs[:1], s.outputs[0])
    if s.wants(3):
        s.op("Identity", s.inputs[:1], s.outputs[3])


@_rule("QLinearAdd", "QLinearMul")
def _quantised_binary(s: StandIn) -> None:
    s.op("Add", [s.inputs[0], s.inputs[3]], s.outputs[0])


@_rule("QLinearConcat")
def _quantised_concat(s: StandIn) -> None:
    s.op("Concat", s.inputs[2::3], s.outputs[0], axis=s.attributes["axis"])


@_rule("QuantizeLinear", "DequantizeLinear", "QLinearConv")
def _same_name(s: StandIn) -> None:
    kept = {k: v for k, v in s.attributes.items() if k not in ("channels_last",)}
    s.op(s.op_type, s.inputs, s.outputs[0], **kept)


@_rule("FusedMatMul", "TransposeMatMul")
def _fused_matmul(s: StandIn) -> None:
    left, right = s.inputs[:2]
    # Transposing needs the rank, which a rule does not know; a constant right side has one.
    shape = s.shape_of(1)
    if s.attributes.get("transB") and shape is not None:
        right = s.op("Transpose", [right], perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
    elif s.attributes.get("transB") or s.attributes.get("transA"):
        return
    s.op("MatMul", [left, right], s.outputs[0])


@_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _matmul_nbits(s: StandIn) -> None:
    s.op("MatMul", [s.inputs[0], s.tensor([s.attributes["K"], s.attributes["N"]])], s.outputs[0])


@_rule("DynamicQuantizeMatMul", "GemmFastGelu")
def _plain_matmul(s: StandIn) -> None:
    s.op("MatMul", s.inputs[:2], s.outputs[0])


@_rule("MatMulIntegerToFloat")
def _matmul_integer(s: StandIn) -> None:
    s.op("Cast", [s.op("MatMulInteger", s.inputs[:2])], s.outputs[0], to=TensorProto.FLOAT)


@_rule("FusedGemm")
def _gemm(s: StandIn) -> None:
    kept = {k: v for k, v in s.attributes.items() if k in ("alpha", "beta", "transA", "transB")}
    s.op("Gemm", s.inputs, s.outputs[0], **kept)


@_rule("FusedConv")
def _conv(s: StandIn) -> None:
    kept = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    s.op("Conv", s.inputs[:2], s.outputs[0], **{k: v for k, v in s.attributes.items() if k in kept})


@_rule("GatherBlockQuantized")
def _gather_blocks(s: StandIn) -> None:
    scales = s.shape_of(2)
    picked = s.op("Gather", [s.inputs[2], s.inputs[1]], axis=s.attributes.get("gather_axis", 0))
    if scales is not None:
        wide = scales[-1] * s.attributes.get("block_size", 128)
        s.op("MatMul", [picked, s.tensor([scales[-1], wide])], s.outputs[0])


@_rule("EmbedLayerNormalization")
def _embed(s: StandIn) -> None:
    s.op("Gather", [s.inputs[2], s.inputs[0]], s.outputs[0], axis=0)


@_rule("Attention")
def _attention(s: StandIn) -> None:
    product = s.op("MatMul", s.inputs[:2])
    sizes = s.attributes.get("qkv_hidden_sizes")
    if sizes:
        s.op("Identity", [s.pick(product, 0, sizes[2], axis=2)], s.outputs[0])
    else:
        heads = s.op("Reshape", [product, s.ints([0, 0, 3, -1])])
        s.op("Reshape", [s.pick(heads, 0, 1, axis=2), s.ints([0, 0, -1])], s.outputs[0])


@_rule("MultiHeadAttention")
def _multi_head(s: StandIn) -> None:
    query, heads = s.inputs[0], s.attributes["num_heads"]
    if not s.has(1):  # packed: [batch, tokens, heads, 3, size]
        query = s.op("Reshape", [s.pick(query, 0, 1, axis=3), s.ints([0, 0, -1])])
    s.op("Identity", [query], s.outputs[0])
    _present(s, [s.split_heads(s.inputs[i], heads) if s.has(i) else "" for i in (1, 2)], past=6)


@_rule("GroupQueryAttention")
def _group_query(s: StandIn) -> None:
    query, heads, kv_heads = s.inputs[0], s.attributes["num_heads"], s.attributes["kv_num_heads"]
    if s.has(1):
        s.op("Identity", [query], s.outputs[0])
        _present(s, [s.split_heads(s.inputs[i], kv_heads) for i in (1, 2)], past=3)
        return
    packed = s.op("Reshape", [query, s.ints([0, 0, heads + 2 * kv_heads, -1])])
    s.op("Reshape", [s.pick(packed, 0, heads, axis=2), s.ints([0, 0, -1])], s.outputs[0])
    picked = [s.pick(packed, heads + i * kv_heads, kv_heads, axis=2) for i in (0, 1)]
    _present(s, [s.op("Transpose", [p], perm=[0, 2, 1, 3]) for p in picked], past=3)


def _present(s: StandIn, new: Sequence[str], past: int) -> None:
    """Present key and value: the past ones, if any, with the new tokens behind them."""
    for i in (0, 1):
        if not s.wants(1 + i) or not new[i]:
            continue
        if s.has(past + i):
            s.op("Concat", [s.inputs[past + i], new[i]], s.outputs[1 + i], axis=2)
        else:
            s.op("Identity", [new[i]], s.outputs[1 + i])


@_rule("DynamicQuantizeLSTM")
def _lstm(s: StandIn) -> None:
    kept = {k: v for k, v in s.attributes.items() if k in ("direction", "hidden_size")}
    s.nodes.append(helper.make_node("LSTM", s.inputs[:3], s.outputs, **kept))
