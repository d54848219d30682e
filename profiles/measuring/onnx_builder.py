"""Builds the small ONNX models that measurements run: one float32 input and one float32 output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 18, 10


def build_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    output_shape: Sequence[int | str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    names: tuple[str, str] = ("x", "y"),
) -> onnx.ModelProto:
    """Return a model of some nodes.

    Parameters
    ----------
    nodes : sequence of NodeProto
    shape, output_shape : sequence of int or str
    constants : mapping of str to ndarray, optional
        Initialisers.
    names : tuple of str
        Of the input and the output.
    """
    graph = helper.make_graph(
        list(nodes),
        "measurement",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Return reproducible numbers around zero: a repeated block, because drawing millions takes too long."""
    block = np.random.default_rng(0).standard_normal(65_521).astype(np.float32)
    return np.resize(block, shape)
