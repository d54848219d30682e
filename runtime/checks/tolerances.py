"""How far a split may be from the whole model: by the precision asked for, and by what the model computes in.

A quantised model amplifies rounding: a value near the middle between two steps becomes one or the other, and an engine
may choose the steps of a dynamic quantisation over another part of the tensor. So what counts there is the difference
relative to the largest value of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from ..device import Device
from ..engines import computes_in_half
from ..tensors.dtypes import onnx_dtype_name
from ..tensors.onnx_tensors import all_tensors
from .whole_model import all_nodes

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 1e-2, "fast": 5e-2}
"""Requested precision -> absolute and relative tolerance of each value."""
_QUANTISED = 5e-2
_QUANTISING_OPS = frozenset(
    "QuantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger DynamicQuantizeLSTM DynamicQuantizeMatMul "
    "MatMulIntegerToFloat QAttention QGemm QOrderedMatMul QEmbedLayerNormalization".split()
)
_WEIGHT_QUANTISING_OPS = frozenset("DequantizeLinear MatMulNBits GatherBlockQuantized MatMulBnb4".split())
_SMALL_FLOATS = ("float16", "bfloat16", "float8", "float6", "float4")
_SMALL_BYTES = 2
_LARGEST_MIN = 1e-30


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference of each value: ``absolute + relative * |expected|``, both `value`."""

    value: float
    of_largest: bool = False
    """Whether the absolute part is relative to the largest magnitude of the tensor."""
    allows_a_step: bool = False
    """Whether a float of 8 or 16 bits may be the next one of its dtype, however far that is."""

    def relative(self, expected: object) -> float:
        """Return the relative part for a tensor."""
        if not self.allows_a_step or not isinstance(expected, np.ndarray) or expected.dtype.itemsize > _SMALL_BYTES:
            return self.value
        limits: Any = ml_dtypes.finfo
        is_float = expected.dtype.name.startswith(_SMALL_FLOATS)
        return max(self.value, float(limits(expected.dtype).eps)) if is_float else self.value

    def absolute(self, expected: object) -> float:
        """Return the absolute part for a tensor; containers have no largest magnitude."""
        if not self.of_largest or not isinstance(expected, np.ndarray) or expected.dtype.kind == "O":
            return self.value
        finite = np.abs(expected.astype(np.float64))
        finite = finite[np.isfinite(finite)]
        return self.value * max(float(finite.max(initial=0.0)), _LARGEST_MIN)

    def __str__(self) -> str:
        unit = "of the largest value" if self.of_largest else "absolute"
        return f"{self.value:g} {unit} plus {self.value:g} relative"


def default_tolerance(model: onnx.ModelProto, precision: str = "float32", devices: Iterable[Device] = ()) -> Tolerance:
    """Return the tolerance for a model that runs with a precision (`LoadOptions.precision`) on some devices.

    Examples
    --------
    >>> from onnx import parser
    >>> text = '<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    >>> str(default_tolerance(parser.parse_model(text)))
    '0.001 absolute plus 0.001 relative'
    """
    asked = TOLERANCES.get(precision, TOLERANCES["fast"])
    ops = {node.op_type for node in all_nodes(model)}
    if any(op in _QUANTISING_OPS or op.startswith("QLinear") for op in ops):
        return Tolerance(max(asked, _QUANTISED), of_largest=True, allows_a_step=True)
    has_small_floats = _computes_in_small_floats(model) or any(map(computes_in_half, devices))
    if ops & _WEIGHT_QUANTISING_OPS or has_small_floats:
        return Tolerance(max(asked, TOLERANCES["float16"]), allows_a_step=True)
    return Tolerance(asked, allows_a_step=True)


def _computes_in_small_floats(model: onnx.ModelProto) -> bool:
    numbers = {tensor.data_type for tensor in all_tensors(model)}
    numbers |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    numbers |= {a.i for node in all_nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    return any((onnx_dtype_name(number) or "").startswith(_SMALL_FLOATS) for number in numbers)
