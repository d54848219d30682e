"""Standard ONNX operators with the same output shapes as ``com.microsoft`` operators, for shape inference.

ONNX's shape inference stops at the first operator of another domain. In the copy of the model that it works on, each
such operator is replaced by a few standard ones whose results have the same shape and dtype; inference then covers the
whole model in one pass. A new operator is one small rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

_MS = "com.microsoft"
_ONNX = ""  # ONNX Runtime has operators of its own in ONNX's domain, too


class Surrogate:
    """The standard nodes that replace one node; its rule adds them.

    Parameters
    ----------
    node : onnx.NodeProto
        The node to replace.
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
        self._prefix = f"{node.name}/surrogate"

    def has_input(self, index: int) -> bool:
        """Return whether an optional input is present."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def has_output(self, index: int) -> bool:
        """Return whether an optional output is used."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def shape_of(self, index: int) -> Sequence[int] | None:
        """Return the shape of a constant input; None where it is not constant."""
        return self._known_shapes.get(self.inputs[index])

    def op(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a standard node, and return the name of its output."""
        name = output or f"{self._prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """Add a constant vector of int64, and return its name."""
        name = f"{self._prefix}/ints{len(self.initializers)}"
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))
        return name

    def tensor(self, shape: Sequence[int]) -> str:
        """Add a float tensor of that shape without values, and return its name."""
        name = f"{self._prefix}/tensor{len(self.placeholders)}"
        self.placeholders.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def split_heads(self, tensor: str, heads: int) -> str:
        """Reshape [batch, tokens, heads * size] to [batch, heads, tokens, size]."""
        return self.op("Transpose", [self.op("Reshape", [tensor, self.ints([0, 0, heads, -1])])], perm=[0, 2, 1, 3])

    def take(self, tensor: str, first: int, count: int, axis: int) -> str:
        """Take some positions along an axis."""
        return self.op("Gather", [tensor, self.ints(range(first, first + count))], axis=axis)


SurrogateRule = Callable[[Surrogate], None]
_RULES: dict[tuple[str, str], SurrogateRule] = {}


def _rule(*op_types: str, domain: str = _MS) -> Callable[[SurrogateRule], SurrogateRule]:
    def register(function: SurrogateRule) -> SurrogateRule:
        _RULES.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


def has_surrogate(domain: str, op_type: str) -> bool:
    """Return whether an operator has a rule.

    Examples
    --------
    >>> has_surrogate("com.microsoft", "MatMulNBits"), has_surrogate("", "MatMul")
    (True, False)
    """
    return (domain, op_type) in _RULES


def surrogate_of(node: onnx.NodeProto, known_shapes: Mapping[str, Sequence[int]]) -> Surrogate | None:
    """Return the standard nodes that replace a node of another domain; None where it has no rule."""
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        return None
    surrogate = Surrogate(node, known_shapes)
    rule(surrogate)
    return surrogate


# The last two belong to ONNX itself, but its inference gives them no shape.
@_rule("SimplifiedLayerNormalization", "GroupNormalization", "MeanVarianceNormalization", domain=_ONNX)
@_rule(
    "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasAdd", "BiasSoftmax", "RotaryEmbedding", "GroupNorm", "ScaledSiLU",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "Inverse", "Trilu", "MoE", "QMoE",
    "SimplifiedLayerNormalization",
)  # fmt: skip
def _like_first_input(s: Surrogate) -> None:
    s.op("Identity", s.inputs[:1], s.outputs[0])


@_rule("STFT", domain=_ONNX)
def _stft(s: Surrogate) -> None:
    # ONNX's inference ignores that a one-sided spectrum is the default: n // 2 + 1 of n bins, on axis 2.
    if s.attributes.get("onesided", 1) == 0:
        s.op("STFT", s.inputs, s.outputs[0], onesided=0)
        return
    one_more = s.op("Pad", [s.op("STFT", s.inputs, onesided=0), s.ints([0, 0, 0, 0, 0, 0, 1, 0])])
    s.op("Slice", [one_more, *(s.ints([n]) for n in (0, 2**31 - 1, 2, 2))], s.outputs[0])


@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm")
def _skip_norm(s: Surrogate) -> None:
    s.op("Identity", s.inputs[:1], s.outputs[0])
    if s.has_output(3):
        s.op("Identity", s.inputs[:1], s.outputs[3])


@_rule("QLinearAdd", "QLinearMul")
def _quantised_binary(s: Surrogate) -> None:
    s.op("Add", [s.inputs[0], s.inputs[3]], s.outputs[0])


@_rule("QLinearConcat")
def _quantised_concat(s: Surrogate) -> None:
    s.op("Concat", s.inputs[2::3], s.outputs[0], axis=s.attributes["axis"])


@_rule("QuantizeLinear", "DequantizeLinear", "QLinearConv")
def _same_name(s: Surrogate) -> None:
    attributes = {k: v for k, v in s.attributes.items() if k not in ("channels_last",)}
    s.op(s.op_type, s.inputs, s.outputs[0], **attributes)


@_rule("FusedMatMul", "TransposeMatMul")
def _fused_matmul(s: Surrogate) -> None:
    left, right = s.inputs[:2]
    # A transpose needs the rank, which is known of a constant right side only.
    shape = s.shape_of(1)
    if s.attributes.get("transB") and shape is not None:
        right = s.op("Transpose", [right], perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
    elif s.attributes.get("transB") or s.attributes.get("transA"):
        return
    s.op("MatMul", [left, right], s.outputs[0])


@_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _matmul_nbits(s: Surrogate) -> None:
    s.op("MatMul", [s.inputs[0], s.tensor([s.attributes["K"], s.attributes["N"]])], s.outputs[0])


@_rule("DynamicQuantizeMatMul", "GemmFastGelu")
def _plain_matmul(s: Surrogate) -> None:
    s.op("MatMul", s.inputs[:2], s.outputs[0])


@_rule("MatMulIntegerToFloat")
def _matmul_integer(s: Surrogate) -> None:
    s.op("Cast", [s.op("MatMulInteger", s.inputs[:2])], s.outputs[0], to=TensorProto.FLOAT)


@_rule("FusedGemm")
def _gemm(s: Surrogate) -> None:
    attributes = {k: v for k, v in s.attributes.items() if k in ("alpha", "beta", "transA", "transB")}
    s.op("Gemm", s.inputs, s.outputs[0], **attributes)


@_rule("FusedConv")
def _conv(s: Surrogate) -> None:
    attributes = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    s.op("Conv", s.inputs[:2], s.outputs[0], **{k: v for k, v in s.attributes.items() if k in attributes})


@_rule("GatherBlockQuantized")
def _gather_blocks(s: Surrogate) -> None:
    scales = s.shape_of(2)
    taken = s.op("Gather", [s.inputs[2], s.inputs[1]], axis=s.attributes.get("gather_axis", 0))
    if scales is not None:
        wide = scales[-1] * s.attributes.get("block_size", 128)
        s.op("MatMul", [taken, s.tensor([scales[-1], wide])], s.outputs[0])


@_rule("EmbedLayerNormalization")
def _embed(s: Surrogate) -> None:
    s.op("Gather", [s.inputs[2], s.inputs[0]], s.outputs[0], axis=0)


@_rule("Attention")
def _attention(s: Surrogate) -> None:
    product = s.op("MatMul", s.inputs[:2])
    sizes = s.attributes.get("qkv_hidden_sizes")
    if sizes:
        s.op("Identity", [s.take(product, 0, sizes[2], axis=2)], s.outputs[0])
    else:
        heads = s.op("Reshape", [product, s.ints([0, 0, 3, -1])])
        s.op("Reshape", [s.take(heads, 0, 1, axis=2), s.ints([0, 0, -1])], s.outputs[0])


@_rule("MultiHeadAttention")
def _multi_head(s: Surrogate) -> None:
    query, heads = s.inputs[0], s.attributes["num_heads"]
    if not s.has_input(1):  # packed: [batch, tokens, heads, 3, size]
        query = s.op("Reshape", [s.take(query, 0, 1, axis=3), s.ints([0, 0, -1])])
    s.op("Identity", [query], s.outputs[0])
    _present(s, [s.split_heads(s.inputs[i], heads) if s.has_input(i) else "" for i in (1, 2)], past=6)


@_rule("GroupQueryAttention")
def _group_query(s: Surrogate) -> None:
    query, heads, kv_heads = s.inputs[0], s.attributes["num_heads"], s.attributes["kv_num_heads"]
    if s.has_input(1):
        s.op("Identity", [query], s.outputs[0])
        _present(s, [s.split_heads(s.inputs[i], kv_heads) for i in (1, 2)], past=3)
        return
    packed = s.op("Reshape", [query, s.ints([0, 0, heads + 2 * kv_heads, -1])])
    s.op("Reshape", [s.take(packed, 0, heads, axis=2), s.ints([0, 0, -1])], s.outputs[0])
    taken = [s.take(packed, heads + i * kv_heads, kv_heads, axis=2) for i in (0, 1)]
    _present(s, [s.op("Transpose", [p], perm=[0, 2, 1, 3]) for p in taken], past=3)


def _present(s: Surrogate, new: Sequence[str], past: int) -> None:
    """Add the present keys and values: the past ones, if any, followed by those of the new tokens."""
    for i in (0, 1):
        if not s.has_output(1 + i) or not new[i]:
            continue
        if s.has_input(past + i):
            s.op("Concat", [s.inputs[past + i], new[i]], s.outputs[1 + i], axis=2)
        else:
            s.op("Identity", [new[i]], s.outputs[1 + i])


@_rule("DynamicQuantizeLSTM")
def _lstm(s: Surrogate) -> None:
    attributes = {k: v for k, v in s.attributes.items() if k in ("direction", "hidden_size")}
    s.nodes.append(helper.make_node("LSTM", s.inputs[:3], s.outputs, **attributes))
