"""Other forms of a case, for devices that refuse it as it is: in half precision, in eight bits, with four dimensions.

Older NPUs compute in eight bits only, others take no matrices but only images. What such a device runs in its own form
is measured in that form, and the name of the point says so; what it refuses in every form it refuses.
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
_RANKED = (OpClass.MATMUL, OpClass.MATVEC, OpClass.ELEMENTWISE, OpClass.NORM)
"""Classes whose cases mean the same with ones in front of their shape."""
_STEPS = 127
_FLOATS = "cpu:ort"


def case_variants(case: OperatorCase) -> Iterator[OperatorCase]:
    """The same work in the forms that a device may want it in.

    Parameters
    ----------
    case : OperatorCase
        One that a device refused; a model's own operators are what they are and have no other form.

    Examples
    --------
    >>> from .cases import small_cases
    >>> [form.name for form in other_forms(small_cases()[1])]
    ['matvec:1x256x256 as rank 4', 'matvec:1x256x256 as float16', 'matvec:1x256x256 as int8 QDQ']
    """
    if case.given is not None:
        return
    if case.op_class in _RANKED and len(case.shape) < _RANK:
        yield _form(case, "rank 4", _ranked, np.dtype(np.float32), _with_ones)
    yield _form(case, "float16", _halved, np.dtype(np.float16), tuple)
    yield _form(case, "int8 QDQ", _quantised, np.dtype(np.float32), tuple)


def _form(
    case: OperatorCase,
    name: str,
    change: Callable[[onnx.ModelProto, np.ndarray], onnx.ModelProto],
    dtype: np.dtype,
    shaped: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> OperatorCase:
    def build() -> bytes:
        made = case.build()
        assert isinstance(made, bytes)  # only a model's own operators are files
        return change(onnx.load_from_string(made), case.feed()).SerializeToString()

    def given() -> dict[str, np.ndarray]:
        return {"x": case.feed().reshape(shaped(case.shape)).astype(dtype)}

    return replace(case, name=f"{case.name}{VARIANT_SEPARATOR}{name}", build=build, given=given)


def _with_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*[1] * (_RANK - len(shape)), *shape)


def _ranked(model: onnx.ModelProto, _: np.ndarray) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, _with_ones(shape)))
    return model


def _halved(model: onnx.ModelProto, _: np.ndarray) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


def _quantised(model: onnx.ModelProto, feed: np.ndarray) -> onnx.ModelProto:
    """Every tensor of floats between a quantise and a dequantise, as tools that quantise models write them."""
    graph, largest = model.graph, _largest(model, feed)
    known = {tensor.name: tensor for tensor in graph.initializer}
    weights = {name for name, tensor in known.items() if tensor.data_type == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    made: list[onnx.TensorProto] = []

    def scaled(name: str, most: float) -> list[str]:
        made.append(numpy_helper.from_array(np.array(most / _STEPS, np.float32), f"{name}.scale"))
        made.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero"))
        return [f"{name}.scale", f"{name}.zero"]

    for name in sorted(weights):
        array = numpy_helper.to_array(known[name])
        most = float(np.abs(array).max()) or 1.0
        steps = np.clip(np.round(array / (most / _STEPS)), -_STEPS, _STEPS).astype(np.int8)
        made.append(numpy_helper.from_array(steps, f"{name}.steps"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.steps", *scaled(name, most)], [f"{name}.dq"]))

    def wrapped(name: str, most: float, result: str) -> None:
        ends = scaled(name, most)
        nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [result]))

    wrapped("x", largest["x"], "x.dq")
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [f"{name}.dq" if name in weights or (name not in known and name) else name
                            for name in node.input]  # fmt: skip
        (result,) = node.output
        changed.output[:] = [f"{result}.float"]
        nodes.append(changed)
        wrapped(f"{result}.float", largest[result], result if result in outputs else f"{result}.dq")
    kept = [tensor for name, tensor in known.items() if name not in weights]
    changed_graph = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*kept, *made])
    return helper.make_model(changed_graph, ir_version=model.ir_version, opset_imports=model.opset_import)


def _largest(model: onnx.ModelProto, feed: np.ndarray) -> dict[str, float]:
    """How far from zero each tensor gets: of a run in floats, as whoever quantises a model finds out."""
    watched = onnx.shape_inference.infer_shapes(model)
    watched.graph.output.extend(watched.graph.value_info)
    module = load(watched.SerializeToString(), find_devices(_FLOATS)[0])
    try:
        found = {"x": feed, **module.run({"x": feed})}
    finally:
        module.close()
    return {name: float(np.abs(array).max()) or 1.0 for name, array in found.items()}
