"""Describes a TFLite file by its operators and its size; to run it, convert it to ONNX first."""

from __future__ import annotations

import struct
from pathlib import Path

import tflite

from trisect.runtime.errors import InvalidModel

from .model_description import ModelDescription

_MAX_BYTES = 2**31
_MAX_OPERATORS = 10_000
_ONNX = {
    "CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "TRANSPOSE_CONV": "ConvTranspose", "CONV_3D": "Conv",
    "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool", "FULLY_CONNECTED": "Gemm", "BATCH_MATMUL": "MatMul",
    "CONCATENATION": "Concat", "LOGISTIC": "Sigmoid", "RELU6": "Clip", "RELU_N1_TO_1": "Clip", "RESIZE_BILINEAR":
    "Resize", "RESIZE_NEAREST_NEIGHBOR": "Resize", "SPACE_TO_DEPTH": "SpaceToDepth", "DEPTH_TO_SPACE": "DepthToSpace",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM": "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN": "RNN",
    "PADV2": "Pad", "MIRROR_PAD": "Pad", "STRIDED_SLICE": "Slice", "SPLIT_V": "Split", "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin", "REDUCE_PROD": "ReduceProd", "SUM": "ReduceSum", "MEAN": "ReduceMean", "MINIMUM": "Min",
    "MAXIMUM": "Max", "SQUARED_DIFFERENCE": "Sub", "SELECT": "Where", "SELECT_V2": "Where", "TOPK_V2": "TopK",
    "ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin", "LESS_EQUAL": "LessOrEqual", "GREATER_EQUAL": "GreaterOrEqual",
    "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not", "FLOOR_DIV": "Div", "FLOOR_MOD": "Mod", "RSQRT":
    "Sqrt", "SQUARE": "Mul", "BROADCAST_TO": "Expand", "FILL": "Expand", "PACK": "Concat", "UNPACK": "Split",
    "L2_NORMALIZATION": "LpNormalization", "LEAKY_RELU": "LeakyRelu", "HARD_SWISH": "HardSwish", "QUANTIZE":
    "QuantizeLinear", "DEQUANTIZE": "DequantizeLinear", "GATHER": "Gather", "GATHER_ND": "GatherND", "CUMSUM": "CumSum",
    "LOG_SOFTMAX": "LogSoftmax", "EMBEDDING_LOOKUP": "Gather", "NOT_EQUAL": "Equal",
}  # fmt: skip
"""TFLite operator -> ONNX operator, where the names differ by more than case and underscores."""


def from_tflite(path: Path) -> ModelDescription:
    """Describe a TFLite file without running it.

    Raises
    ------
    InvalidModel
        For a file that is damaged or too large.
    """
    size_bytes = path.stat().st_size
    if size_bytes > _MAX_BYTES:
        raise InvalidModel(
            f"{path.name}: expected at most 2 GiB, as of any TFLite file", remedy="do not trust this model"
        )
    names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
    operators: set[str] = set()
    custom: set[str] = set()
    try:
        model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        count = model.OperatorCodesLength()
        if count > _MAX_OPERATORS:
            raise InvalidModel(
                f"{path.name}: expected at most {_MAX_OPERATORS} operators, got {count}",
                remedy="do not trust this model",
            )
        for index in range(count):
            code = model.OperatorCodes(index)
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            if names.get(number) == "CUSTOM":
                custom.add((code.CustomCode() or b"?").decode("utf-8", "replace")[:80])
            else:
                operators.add(_onnx_name(names.get(number, f"operator {number}")))
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InvalidModel(f"{path.name}: malformed TFLite file", remedy="download it again") from error
    return ModelDescription(
        kind="TFLite",
        name=path.name,
        confidence="low",
        operators=frozenset(operators),
        weight_bytes=size_bytes,
        refused=f"custom operators: {', '.join(sorted(custom))}" if custom else "",
        notes=("to run it, convert it to ONNX, for example with tf2onnx",),
    )


def _onnx_name(name: str) -> str:
    """Return the ONNX name of a TFLite operator.

    >>> _onnx_name("CONV_2D"), _onnx_name("PRELU"), _onnx_name("SPACE_TO_DEPTH")
    ('Conv', 'prelu', 'SpaceToDepth')
    """
    return _ONNX.get(name, name.replace("_", "").lower())
