"""Decomposes ``GatherBlockQuantized`` into standard operators, for engines that do not support it.

onnxruntime-genai's builder writes the operator when embedding and output projection share quantised weights. The
decomposition gathers the rows of the given ids and dequantises only those, as the operator does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph_editor import GraphEditor

_OPERATOR = "GatherBlockQuantized"


def decompose_block_embeddings(graph: ir.Graph) -> None:
    """Replace lookups in tables of 4 or 8 bits with blocks along the row; leave others unchanged.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Changed; afterwards the replaced nodes are unused, and the nodes have to be sorted again.
    """
    editor = GraphEditor(graph, "embedding")
    for node in [node for node in graph if node.op_type == _OPERATOR]:
        settings = {a.name: a.as_int() for a in node.attributes.values() if a.type == ir.AttributeType.INT}
        data, ids, scales, zeros = [*node.inputs, None, None, None, None][:4]
        if data is None or ids is None or scales is None:
            continue
        bits, block = settings.get("bits", 4), settings.get("block_size", 128)
        by_row = settings.get("gather_axis", 0) == 0 and settings.get("quantize_axis", 1) in (1, -1)
        table, factors = _stored_tensor(data), _stored_tensor(scales)
        if not by_row or bits not in (4, 8) or table is None or factors is None or len(factors.shape) != 2:
            continue
        # Only rows of complete blocks: a shorter last block would have to be padded.
        if table.dtype != ir.DataType.UINT8 or 8 * table.size != bits * block * factors.size:
            continue
        blocks = int(factors.shape.numpy()[1])
        levels = _rows(editor, data, ids, bits)
        levels = editor.node("Reshape", [levels, editor.ints(0, 0, blocks, block)])
        if zeros is None:
            zero = editor.constant(np.array(1 << (bits - 1), np.float32))
        else:
            width = -(-blocks * bits // 8)
            zero = _rows(editor, editor.node("Reshape", [zeros, editor.ints(-1, width)]), ids, bits)
            zero = editor.node("Slice", [zero, editor.ints(0), editor.ints(blocks), editor.ints(2)])
            zero = editor.node("Reshape", [zero, editor.ints(0, 0, blocks, 1)])
        scale = editor.node("Gather", [editor.node("Reshape", [scales, editor.ints(-1, blocks)]), ids], axis=0)
        scale = editor.node("Cast", [scale], to=ir.DataType.FLOAT)
        scale = editor.node("Reshape", [scale, editor.ints(0, 0, blocks, 1)])
        dequantised = editor.node("Mul", [editor.node("Sub", [levels, zero]), scale])
        dequantised = editor.node("Reshape", [dequantised, editor.ints(0, 0, blocks * block)])
        node.outputs[0].replace_all_uses_with(editor.node("Cast", [dequantised], to=factors.dtype))


def _stored_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the stored tensor behind a value and its reshapes; None if it is computed."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Reshape" and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value.const_value


def _rows(editor: GraphEditor, packed: ir.Value, ids: ir.Value, bits: int) -> ir.Value:
    """Gather rows of a table [rows, bytes] as float32 [1, tokens, levels]; of two in a byte the low half is first."""
    rows = editor.node("Cast", [editor.node("Gather", [packed, ids], axis=0)], to=ir.DataType.FLOAT)
    if bits == 8:
        return rows
    sixteen, last = editor.constant(np.array(16, np.float32)), editor.ints(3)
    high = editor.node("Floor", [editor.node("Div", [rows, sixteen])])
    low = editor.node("Sub", [rows, editor.node("Mul", [high, sixteen])])
    pairs = editor.node("Concat", [editor.node("Unsqueeze", [half, last]) for half in (low, high)], axis=3)
    return editor.node("Reshape", [pairs, editor.ints(0, 0, -1)])
