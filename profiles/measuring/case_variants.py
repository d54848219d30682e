"""Variants of a case, for devices that refuse the original: in float16, in 8 bits, or with four dimensions.

Some NPUs compute in 8 bits only, others support only four-dimensional tensors. Such a device is measured on the variant
that it supports, which the name of the point states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.engines import find_devices, load

from ..costmodel.op_features import OpClass
from .operator_cases import OperatorCase

VARIANT_SEPARATOR = " as "
_RANK = 4
_RESHAPEABLE = (OpClass.MATMUL, OpClass.MATVEC, OpClass.ELEMENTWISE, OpClass.NORM)
"""Classes whose cases stay the same with leading dimensions of 1."""
_INT8_MAX = 127
_CALIBRATION_DEVICE = "cpu:ort"


def case_variants(case: OperatorCase) -> Iterator[OperatorCase]:
    """Yield the same operator in variants that a device may support.

    Parameters
    ----------
    case : OperatorCase
        A case that a device refused; a model's own operators have no variants.

    Examples
    --------
    >>> from trisect.profiles.measuring.operator_cases import small_cases
    >>> [variant.name for variant in case_variants(small_cases()[1])]
    ['matvec:1x256x256 as rank 4', 'matvec:1x256x256 as float16', 'matvec:1x256x256 as int8 QDQ']
    """
    if case.make_feeds is not None:
        return
    if case.op_class in _RESHAPEABLE and len(case.shape) < _RANK:
        yield _variant(case, "rank 4", _to_rank_4, np.dtype(np.float32), _pad_shape)
    yield _variant(case, "float16", _to_float16, np.dtype(np.float16), tuple)
    yield _variant(case, "int8 QDQ", _to_int8, np.dtype(np.float32), tuple)


def _variant(
    case: OperatorCase,
    name: str,
    convert: Callable[[onnx.ModelProto, np.ndarray], onnx.ModelProto],
    dtype: np.dtype,
    reshape: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> OperatorCase:
    def build() -> bytes:
        content = case.build()
        assert isinstance(content, bytes)  # only a model's own operators are files
        return convert(onnx.load_from_string(content), case.feed()).SerializeToString()

    def make_feeds() -> dict[str, np.ndarray]:
        return {"x": case.feed().reshape(reshape(case.shape)).astype(dtype)}

    return replace(case, name=f"{case.name}{VARIANT_SEPARATOR}{name}", build=build, make_feeds=make_feeds)


def _pad_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*[1] * (_RANK - len(shape)), *shape)


def _to_rank_4(model: onnx.ModelProto, _: np.ndarray) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, _pad_shape(shape)))
    return model


def _to_float16(model: onnx.ModelProto, _: np.ndarray) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


def _to_int8(model: onnx.ModelProto, feed: np.ndarray) -> onnx.ModelProto:
    """Return the model in QDQ format: each float tensor between a QuantizeLinear and a DequantizeLinear node."""
    graph, magnitudes = model.graph, _magnitudes(model, feed)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    weights = {name for name, tensor in initializers.items() if tensor.data_type == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []

    def add_scale(name: str, magnitude: float) -> list[str]:
        added.append(numpy_helper.from_array(np.array(magnitude / _INT8_MAX, np.float32), f"{name}.scale"))
        added.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero"))
        return [f"{name}.scale", f"{name}.zero"]

    def quantise(name: str, magnitude: float, result: str) -> None:
        scale = add_scale(name, magnitude)
        nodes.append(helper.make_node("QuantizeLinear", [name, *scale], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *scale], [result]))

    for name in sorted(weights):
        array = numpy_helper.to_array(initializers[name])
        magnitude = float(np.abs(array).max()) or 1.0
        steps = np.clip(np.round(array / (magnitude / _INT8_MAX)), -_INT8_MAX, _INT8_MAX).astype(np.int8)
        added.append(numpy_helper.from_array(steps, f"{name}.steps"))
        scale = add_scale(name, magnitude)
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.steps", *scale], [f"{name}.dq"]))
    quantise("x", magnitudes["x"], "x.dq")
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        float_node = onnx.NodeProto()
        float_node.CopyFrom(node)
        float_node.input[:] = [
            f"{name}.dq" if name in weights or (name and name not in initializers) else name for name in node.input
        ]
        (result,) = node.output
        float_node.output[:] = [f"{result}.float"]
        nodes.append(float_node)
        quantise(f"{result}.float", magnitudes[result], result if result in outputs else f"{result}.dq")
    unchanged = [tensor for name, tensor in initializers.items() if name not in weights]
    quantised = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*unchanged, *added])
    return helper.make_model(quantised, ir_version=model.ir_version, opset_imports=model.opset_import)


def _magnitudes(model: onnx.ModelProto, feed: np.ndarray) -> dict[str, float]:
    """Return the largest magnitude of each tensor in a float32 run, to calibrate the quantisation."""
    with_all_outputs = onnx.shape_inference.infer_shapes(model)
    with_all_outputs.graph.output.extend(with_all_outputs.graph.value_info)
    module = load(with_all_outputs.SerializeToString(), find_devices(_CALIBRATION_DEVICE)[0])
    try:
        tensors = {"x": feed, **module.run({"x": feed})}
    finally:
        module.close()
    return {name: float(np.abs(array).max()) or 1.0 for name, array in tensors.items()}
