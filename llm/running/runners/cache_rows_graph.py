"""Writes the graph that copies rows of a KV cache on a device: buffers there have no slices, and cannot grow.

It exports the rows of some tokens, puts exact rows into a buffer of a larger capacity, and moves a buffer into a
larger one: only the rows that are needed leave or reach the device.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorProto, helper

from trisect.runtime.tensors.dtypes import onnx_dtype_number

_OPSET = 18
_IR_VERSION = 10
_TOKENS_AXIS = 2


def cache_rows_graph(dtypes: Mapping[str, str]) -> bytes:
    """Return the graph as an ONNX file.

    Inputs: a tensor [batch, kv heads, rows, head dim] for each name in `dtypes`; ``start`` and ``end`` int64 [1], the
    rows to copy; ``padding`` int64 [8], what ``Pad`` adds: only the numbers of rows before and after them may differ
    from zero. Outputs: the copied rows between zeros, under the same names followed by ``.rows``.
    """
    cache_shape = ["batch", None, None, None]
    numbers = {name: onnx_dtype_number(dtype) for name, dtype in dtypes.items()}
    inputs = [helper.make_tensor_value_info(name, number, cache_shape) for name, number in numbers.items()]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("start", "end")]
    inputs.append(helper.make_tensor_value_info("padding", TensorProto.INT64, [8]))
    nodes, outputs = [], []
    for name, number in numbers.items():
        rows = f"{name}.rows"
        nodes.append(helper.make_node("Slice", [name, "start", "end", "axis"], [f"{name}.slice"], f"{name}.slice"))
        nodes.append(helper.make_node("Pad", [f"{name}.slice", "padding"], [rows], rows))
        outputs.append(helper.make_tensor_value_info(rows, number, cache_shape))
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [_TOKENS_AXIS])
    graph = helper.make_graph(nodes, "cache_rows", inputs, outputs, [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    data: bytes = model.SerializeToString()
    return data
