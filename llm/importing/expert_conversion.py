"""Converts the weights of experts into the one form in which an operator multiplies by all of them.

ONNX Runtime's ``QMoE`` takes one number of bits and one block size for all projections of a layer, float32 scales, and
no offsets. Types that differ are widened to the most bits and the smallest block among them, which is exact; types with
offsets are stored in steps, whose error is 0.003 of the weights' rms at most (see `quantised_blocks`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..gguf.block_types import BLOCK_TYPES
from ..gguf.gguf_reader import GgufTensor
from ..gguf.quantised_blocks import (
    BlockForm,
    chunk_floats,
    chunk_groups,
    convert,
    dequantise,
    offset_free_form,
    row_chunks,
    widen,
)
from ..graphs.weights_file import Dense, Linear, ScaleSpan, Span, Weight, WeightsFile
from .weight_conversion import WeightConverter


def convert_experts(
    converter: WeightConverter, output: WeightsFile, tensors: Mapping[str, GgufTensor], prefix: str
) -> dict[str, Weight]:
    """Write the experts of a layer.

    Returns
    -------
    dict
        ``gate_up``, rows of gate and up in turns, and ``down``; each with the experts one after the other.
    """
    gate, up, down = (tensors[f"{prefix}ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
    kinds = [BLOCK_TYPES.get(tensor.type) for tensor in (gate, up, down)]
    forms = [offset_free_form(kind) for kind in kinds if kind is not None]
    if len(forms) < len(kinds) or not converter.in_blocks:
        return {"gate_up": _dense(converter, output, [gate, up]), "down": _dense(converter, output, [down])}
    bits, block = max(form.bits for form in forms), min(form.block for form in forms)
    return {
        "gate_up": _linear(converter, output, [gate, up], bits, block),
        "down": _linear(converter, output, [down], bits, block),
    }


def convert_expert_biases(output: WeightsFile, tensors: Mapping[str, GgufTensor], prefix: str) -> dict[str, Span]:
    """Write the biases of a layer's router and experts, as `Layer` names them."""
    router, gate, up, down = (
        dequantise(tensors[f"{prefix}ffn_{part}.bias"]) for part in ("gate_inp", "gate_exps", "up_exps", "down_exps")
    )
    in_turns = np.stack([gate, up], axis=-1).reshape(len(gate), -1)
    return {"router_bias": output.add(router), "gate_up_bias": output.add(in_turns), "down_bias": output.add(down)}


def _linear(
    converter: WeightConverter, output: WeightsFile, tensors: list[GgufTensor], bits: int, block: int
) -> Linear:
    """Write tensors of the same shape, their rows in turns."""
    rows, columns, turns = tensors[0].rows, tensors[0].columns, len(tensors)
    data = output.reserve((rows * turns, columns // block, block * bits // 8), np.dtype(np.uint8))
    scales = output.reserve((rows * turns, columns // block), np.dtype(np.float32))
    for chunks in zip(*map(row_chunks, tensors), strict=True):
        parts = []
        for tensor, (_, packed) in zip(tensors, chunks, strict=True):
            groups = chunk_groups(tensor, packed)
            blocks = convert(groups, offset_free_form(BLOCK_TYPES[tensor.type]))
            parts.append(widen(blocks, bits, block))
            converter.record(tensor.type, parts[-1].form, groups, blocks)
        start = chunks[0][0].start * turns
        output.write(data, start, _in_turns([part.data for part in parts]))
        output.write(scales, start, _in_turns([part.scales.base for part in parts]))
    return Linear(BlockForm(bits, block, "exact"), data, ScaleSpan(scales))


def _dense(converter: WeightConverter, output: WeightsFile, tensors: list[GgufTensor]) -> Dense:
    dtypes = {converter.dense_dtype(tensor) for tensor in tensors}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    rows, columns, turns = tensors[0].rows, tensors[0].columns, len(tensors)
    span = output.reserve((rows * turns, columns), dtype)
    for chunks in zip(*map(row_chunks, tensors), strict=True):
        parts = []
        for tensor, (_, data) in zip(tensors, chunks, strict=True):
            floats = chunk_floats(tensor, data)  # checks that they are finite
            parts.append(data.view(dtype) if dtype == converter.dense_dtype(tensor) != np.float32 else floats)
            converter.record(tensor.type, None, weights=floats.size)
        output.write(span, chunks[0][0].start * turns, _in_turns(parts))
    return Dense(span)


def _in_turns(parts: list[np.ndarray]) -> np.ndarray:
    """Return the first row of every part, then the second of every part, ..."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
