"""Models of one node for every dtype, which the tests of tensors and engines share."""

from __future__ import annotations

import numpy as np
from onnx import helper

from trisect.runtime.tensors.dtypes import dtype_of, onnx_dtype_number


def tensor(name, dtype, shape=None):
    """Return the description of a tensor of a dtype."""
    return helper.make_tensor_value_info(name, onnx_dtype_number(dtype), shape)


def model_of(nodes, inputs, outputs):
    """Return a model of some nodes."""
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=10)


def identity(dtype, shape=(3, "n")):
    """Return a model that copies x to y, as bytes."""
    ends = (tensor(name, dtype, shape) for name in "xy")
    return model_of([helper.make_node("Identity", ["x"], ["y"])], [next(ends)], [next(ends)]).SerializeToString()


def cast(source, target):
    """Return a model that converts x to y, as bytes."""
    node = helper.make_node("Cast", ["x"], ["y"], to=onnx_dtype_number(target))
    return model_of([node], [tensor("x", source, ["n"])], [tensor("y", target, ["n"])]).SerializeToString()


def values(dtype, shape=(3, 5)):
    """Return zeros and ones of a dtype."""
    return (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype_of(dtype))
