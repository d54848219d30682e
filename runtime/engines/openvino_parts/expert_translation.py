"""Translates ONNX Runtime's mixtures of experts into a pattern that OpenVINO computes for the chosen experts only.

OpenVINO's ONNX frontend does not know ``com.microsoft.QMoE`` and ``MoE``. Its plugins recognise the form in which
Hugging Face's models export experts (every token is repeated for each expert, and the scores of those not chosen are
zero), and replace it by products with compressed weights of the chosen experts: OpenVINO's source file
``convert_tiled_moe_block_to_gather_matmuls.cpp`` (Apache-2.0). The form with gate and up in one product has biases, a
limit and an offset; where a model has none of them, values that change no result take their places, since OpenVINO
removes zeros before it looks for the form.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension

_DOMAIN = "com.microsoft"
_LIMIT = 3e38
"""More than any value: no limit."""
_OFFSET = 2.0**-10
"""Subtracted by the bias and added again later: rounded like the value itself, unless this is far smaller."""
_TINY = 1e-30
"""A bias that changes no value."""
_END = np.iinfo(np.int64).max


class ExpertTranslation:
    """Translates mixtures of experts while a model is read.

    Four-bit weights are constants over the bytes of the file, which have to stay mapped as long as the model exists.
    """

    def __init__(self, core: ov.Core) -> None:
        self._local = threading.local()
        for operator in ("QMoE", "MoE"):
            translate = partial(self._translate, quantised=operator == "QMoE")
            core.add_extension(ConversionExtension(operator, _DOMAIN, translate))

    def take_mapped(self) -> tuple[object, ...]:
        """Return what has to live as long as the model that this thread has read last."""
        mapped = tuple(self._mapped())
        self._mapped().clear()
        return mapped

    def _mapped(self) -> list[object]:
        if not hasattr(self._local, "mapped"):
            self._local.mapped = []
        mapped: list[object] = self._local.mapped
        return mapped

    def _translate(self, node: NodeContext, *, quantised: bool) -> list[ov.Output]:
        x, scores = node.get_input(0), node.get_input(1)
        gate_up, down = ((2, 4), (5, 7)) if quantised else ((2, 3), (4, 5))
        experts = node.get_input(2).get_partial_shape()[0].get_length()
        hidden = x.get_partial_shape()[-1].get_length()
        # Every token for every expert, [experts, tokens, hidden].
        rows = ops.tile(ops.reshape(x, _ints(-1, hidden), False), _ints(experts, 1))
        rows = ops.reshape(rows, _ints(experts, -1, hidden), False)
        offset = node.get_attribute("activation_beta", 0.0)
        bias = self._bias(node, gate_up[1], experts, self._rows(node, gate_up[0]))
        if offset == 0:
            bias[:, :, 1::2] -= _OFFSET
            offset = _OFFSET
        both = ops.add(ops.matmul(rows, self._weight(node, gate_up[0], quantised), False, True), ops.constant(bias))
        limit = node.get_attribute("swiglu_limit", _LIMIT)
        gate = ops.minimum(_every_second(both, 0), _float(limit))
        gate = ops.swish(gate, _float(node.get_attribute("activation_alpha", 1.0)))
        up = ops.add(ops.clamp(_every_second(both, 1), -limit, limit), _float(offset))
        result = ops.matmul(ops.multiply(up, gate), self._weight(node, down[0], quantised), False, True)
        bias = self._bias(node, down[1], experts, hidden)
        result = ops.reshape(ops.add(result, ops.constant(bias)), _ints(experts, 1, -1, hidden), False)
        best = ops.topk(scores, _int(node.get_attribute("k")), -1, "max", "value", "i32")
        none = ops.broadcast(_float(0), ops.shape_of(scores))
        shares = ops.scatter_elements_update(none, best.output(1), ops.softmax(best.output(0), -1), _int(-1))
        shares = ops.reshape(ops.transpose(shares, _ints(1, 0)), _ints(experts, 1, -1), False)
        result = ops.reduce_sum(ops.multiply(result, ops.unsqueeze(shares, _int(-1))), _ints(0), False)
        return [ops.reshape(result, ops.shape_of(x), False).output(0)]

    def _weight(self, node: NodeContext, at: int, quantised: bool) -> Any:
        """Return weights [experts, rows, columns] in float32; in blocks, the plugin keeps them compressed."""
        stored = node.get_input(at)
        if not quantised:
            return stored
        bits, block = node.get_attribute("expert_weight_bits", 4), node.get_attribute("block_size")
        experts, rows, row_bytes = (size.get_length() for size in stored.get_partial_shape())
        blocks = row_bytes * 8 // bits // block
        shape = [experts, rows, blocks, block]
        if bits == 4:
            constant = stored.get_node()
            packed = ov.Tensor(constant.data.reshape(-1), ov.Shape(shape), ov.Type.u4)
            self._mapped().extend((constant, packed))
            levels: Any = ov.op.Constant(packed, shared_memory=True)
        else:
            levels = ops.reshape(stored, _ints(*shape), False)
        zero = ops.convert(ops.constant(np.array(1 << (bits - 1), np.uint8)), "f32")
        centred = ops.subtract(ops.convert(levels, "f32"), zero)
        scales = ops.reshape(node.get_input(at + 1), _ints(experts, rows, blocks, 1), False)
        return ops.reshape(ops.multiply(centred, scales), _ints(experts, rows, blocks * block), False)

    def _rows(self, node: NodeContext, at: int) -> int:
        rows: int = node.get_input(at).get_partial_shape()[1].get_length()
        return rows

    def _bias(self, node: NodeContext, at: int, experts: int, rows: int) -> np.ndarray:
        """Return a bias, float32 [experts, 1, rows]."""
        if at < node.get_input_size():
            constant = node.get_input(at).get_node()
            if constant.get_type_name() == "Constant":
                values: np.ndarray = np.array(constant.data, np.float32).reshape(experts, 1, rows)
                return values
        return np.full((experts, 1, rows), _TINY, np.float32)


def _every_second(values: Any, start: int) -> Any:
    return ops.slice(values, _ints(start), _ints(_END), _ints(2), _ints(2))


def _ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def _int(value: int) -> Any:
    return ops.constant(np.array(value, np.int64))


def _float(value: float) -> Any:
    return ops.constant(np.array(value, np.float32))
