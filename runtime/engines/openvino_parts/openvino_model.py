"""Edits a model that OpenVINO has read before it is compiled: outputs, dtypes and shapes that a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import openvino as ov
from openvino import opset16 as ops

from ...tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from ..common.model_signature import Signature, bind_shape


def drop_outputs(model: ov.Model, used: set[str]) -> None:
    """Remove unused outputs, and with them the nodes that only they need."""
    for result in model.get_results():
        if used.isdisjoint(result.output(0).get_names()):
            model.remove_result(result)


def copy_passed_inputs(model: ov.Model) -> None:
    """Insert a copy between an input and an output where nothing else is: OpenVINO leaves such an output unwritten.

    Its reader removes operators that change nothing, such as Dropout, or Sum of one tensor.
    """
    for result in model.get_results():
        source = result.input_value(0)
        if source.get_node().get_type_name() == "Parameter":
            copied = ops.identity(source.get_node().output(0)).output(0)
            result.input(0).replace_source_output(copied)
    model.validate_nodes_and_infer_types()


def leave_bfloat16(model: ov.Model, specs: list[TensorSpec], names: tuple[str, ...]) -> list[TensorSpec]:
    """Declare float32 outputs as bfloat16, in which they are computed: half the bytes to write, and no conversion."""
    narrowed = {spec.name for spec in specs if spec.name in names and spec.dtype == "float32"}
    for result in model.get_results():
        if not narrowed.isdisjoint(result.output(0).get_names()):
            source = result.input_value(0)
            converted = ops.convert(source.get_node().output(source.get_index()), "bf16").output(0)
            converted.set_names(result.output(0).get_names() & narrowed)
            result.input(0).replace_source_output(converted)
    model.validate_nodes_and_infer_types()
    return [replace(spec, dtype="bfloat16") if spec.name in narrowed else spec for spec in specs]


def fix_shapes(model: ov.Model, declared: Signature, sizes: Mapping[str, int]) -> None:
    """Set the sizes of symbolic dimensions, whose names are only in the file."""
    fixed = {}
    for port in model.inputs:
        spec = next((spec for spec in declared.inputs if spec.name in port.names), None)
        if spec is None or spec.shape == UNKNOWN_RANK or not any(dim in sizes for dim in spec.shape):
            continue
        shape = bind_shape(spec, sizes).shape
        fixed[port] = ov.PartialShape([dim if isinstance(dim, int) else -1 for dim in shape])
    if fixed:
        model.reshape(fixed)


def convolves_channels_last(core: ov.Core, native: str, properties: Mapping[str, str]) -> bool:
    """Return whether a plugin computes convolutions in NHWC, by compiling a small one.

    The letters of a reported layout are axes, in the order in which they are stored: ``acdb`` is NHWC.
    """
    image = ops.parameter([1, 16, 32, 32], np.float32)
    weights = ops.constant(np.ones((16, 16, 3, 3), np.float32))
    convolved = ops.convolution(image, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    compiled = core.compile_model(ov.Model([convolved], [image]), native, dict(properties))
    reports = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return any(
        str(info["layerType"].astype(str)) == "Convolution" and str(info["outputLayouts"].astype(str)) == "acdb"
        for info in reports
    )
