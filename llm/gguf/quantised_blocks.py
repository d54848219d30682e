"""Converts GGUF's blocks of quantised weights to ONNX's form, without quantising anything a second time.

GGUF has 32 weights per block. So has ``com.microsoft.MatMulNBits``, as ``scale * (q - zero)``, in another order and
with the default zero of 8 (4 bits) or 128 (8 bits), for which its kernels are fastest. Q8_0 and Q4_0 map to it exactly.
Q4_1 is ``d * q + m``, whose offset MatMulNBits cannot represent; there are two conversions:

- 4 bits and an offset per block (exact): ``d * (q - 8)`` in MatMulNBits, and ``m + 8 d`` for the graph to multiply by
  the sums of the input's blocks;
- 8 bits (near-lossless): the 16 levels of a block are evenly spaced, so with a scale of ``d / k`` for an integer k they
  all lie on the 8-bit grid except for one common shift, the distance of ``k m / d`` from an integer. Up to 17 values of
  k fit into 8 bits, and one of them usually makes that shift small: on real weights the error is 0.0023 of their rms,
  against 0.0056 with a scale of the largest weight / 127. A zero point would make it 0.0020: not worth the slower
  kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trisect.runtime.errors import InvalidModel

from .gguf_reader import BLOCK_BYTES, GgufTensor

BLOCK = 32
"""Weights per block, in GGUF's types and in MatMulNBits."""
_CHUNK_ELEMENTS = 1 << 20
_CONSTANT_BYTES = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4}  # float16 scale and offset at the start of each block
_MAX_STEPS = 17  # 15 steps between 16 levels times 17 is the whole range of 8 bits


@dataclass(frozen=True, eq=False)
class QuantBlocks:
    """A weight [rows, columns] in the form of MatMulNBits: ``scale * (q - 2 ** (bits - 1)) + offset``."""

    bits: int
    """4 or 8."""
    data: np.ndarray
    """uint8 [rows, columns / block, block * bits / 8]; of two 4-bit weights the first is the low half of the byte."""
    scales: np.ndarray
    """float32 [rows, columns / block]."""
    offset: np.ndarray | None = None
    """float32 [rows, columns / block], to be added to every weight of the block; None = no offset."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs)."""
        return self.data.shape[0], self.data.shape[1] * self.block

    @property
    def block(self) -> int:
        """Number of weights in a block."""
        return int(self.data.shape[2]) * 8 // self.bits


def dequantise(tensor: GgufTensor) -> np.ndarray:
    """Return a tensor of any supported type as float32, in its own shape.

    Raises
    ------
    InvalidModel
        If a weight is not a finite number.
    """
    result = np.empty((tensor.rows, tensor.columns), np.float32)
    for rows, chunk in _chunks(tensor):
        result[rows] = _FLOATS[tensor.type](chunk).reshape(-1, tensor.columns)
    return result.reshape(tensor.shape)


def to_matmulnbits(tensor: GgufTensor, bits: int) -> QuantBlocks:
    """Return a quantised weight as MatMulNBits blocks of 32.

    Parameters
    ----------
    tensor : GgufTensor
        Two-dimensional, of type Q4_0, Q4_1 or Q8_0.
    bits : int
        8 for all of them; 4 for Q4_0 and Q4_1. Exact except for Q4_1 in 8 bits (see the module's docstring).

    Raises
    ------
    ValueError
        For any other pair of type and bits: it would quantise unquantised weights, or quantise a second time.
    InvalidModel
        If a scale is not a finite number.
    """
    convert = _CONVERSIONS.get((tensor.type, bits))
    if convert is None or len(tensor.shape) != 2:
        raise ValueError(f"{tensor.name}: {tensor.type} {list(tensor.shape)} has no {bits}-bit form without loss")
    blocks = (tensor.rows, tensor.columns // BLOCK)
    data = np.empty((*blocks, BLOCK * bits // 8), np.uint8)
    scales = np.empty(blocks, np.float32)
    offset = np.empty(blocks, np.float32) if (tensor.type, bits) == ("Q4_1", 4) else None
    for rows, chunk in _chunks(tensor):
        levels, scale, shift = convert(chunk)
        data[rows] = (_pack_nibbles(levels) if bits == 4 else levels).reshape(data[rows].shape)
        scales[rows] = scale.reshape(-1, blocks[1])
        if offset is not None and shift is not None:
            offset[rows] = shift.reshape(-1, blocks[1])
    return QuantBlocks(bits, data, scales, offset)


def to_wide_blocks(tensor: GgufTensor, block: int) -> QuantBlocks:
    """Return a quantised weight in 8 bits with one scale for several of the file's blocks, rounded to the nearest.

    On real weights in blocks of 64 the error is 0.006 of their rms: less than the error of inputs rounded to 8 bits,
    which engines with integer kernels add anyway.

    Parameters
    ----------
    tensor : GgufTensor
        Two-dimensional, of a quantised type.
    block : int
        Number of weights in a block; a divisor of the number of columns.

    Raises
    ------
    InvalidModel
        If a scale is not a finite number.
    """
    blocks = (tensor.rows, tensor.columns // block)
    data = np.empty((*blocks, block), np.uint8)
    scales = np.empty(blocks, np.float32)
    for rows, chunk in _chunks(tensor):
        weights = _FLOATS[tensor.type](chunk).reshape(-1, blocks[1], block)
        largest = np.abs(weights).max(axis=2)
        scales[rows] = np.where(largest > 0, largest, 1) / 127
        data[rows] = np.rint(weights / scales[rows, :, None]) + 128
    return QuantBlocks(8, data, scales)


def concat_rows(parts: Sequence[QuantBlocks]) -> QuantBlocks:
    """Stack weights of the same input (Q, K and V; gate and up), so that one matrix product computes them all.

    Raises
    ------
    ValueError
        If bits or columns differ.
    """
    if len({(part.bits, part.shape[1]) for part in parts}) != 1:
        raise ValueError(f"cannot stack weights of {[(part.bits, part.shape[1]) for part in parts]} (bits, columns)")
    offset = None
    if any(part.offset is not None for part in parts):
        offset = np.concatenate([np.zeros_like(p.scales) if p.offset is None else p.offset for p in parts])
    data = np.concatenate([part.data for part in parts])
    return QuantBlocks(parts[0].bits, data, np.concatenate([part.scales for part in parts]), offset)


def take_rows(blocks: QuantBlocks, order: np.ndarray) -> QuantBlocks:
    """Return the weight with its rows in another order; blocks lie along rows and stay unchanged."""
    offset = None if blocks.offset is None else blocks.offset[order]
    return QuantBlocks(blocks.bits, blocks.data[order], blocks.scales[order], offset)


def half_rotation_order(heads: int, head_dim: int) -> np.ndarray:
    """Return the row order that converts a Q or K weight from interleaved rotary embeddings to rotation by halves.

    llama-architecture GGUFs rotate rows 0 and 1, 2 and 3, ... of a head together; ONNX operators, by default, rows 0
    and head_dim / 2, 1 and head_dim / 2 + 1, ... Attention does not change if Q and K are reordered alike.

    Returns
    -------
    numpy.ndarray
        intp [heads * head_dim], for `take_rows` or for indexing a dense weight or a bias.

    Examples
    --------
    >>> half_rotation_order(2, 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _chunks(tensor: GgufTensor) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield runs of whole rows, so that intermediate arrays stay small whatever the tensor's size."""
    step = max(1, _CHUNK_ELEMENTS // tensor.columns)
    for start in range(0, tensor.rows, step):
        rows = slice(start, min(start + step, tensor.rows))
        _require_finite(tensor, tensor.data[rows])
        yield rows, tensor.data[rows]


def _require_finite(tensor: GgufTensor, chunk: np.ndarray) -> None:
    if constants := _CONSTANT_BYTES.get(tensor.type):
        values = _half(_split(chunk, BLOCK_BYTES[tensor.type][1])[:, :constants])
    else:
        values = _FLOATS[tensor.type](chunk)
    if not np.isfinite(values).all():
        raise InvalidModel(f"tensor {tensor.name} holds a weight that is not finite", remedy="download the file again")


def _half(content: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(content).view("<f2").astype(np.float32)


def _bfloat16(chunk: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(chunk).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _split(chunk: np.ndarray, block_bytes: int) -> np.ndarray:
    """uint8 [rows, row bytes] -> [blocks, block bytes]."""
    return chunk.reshape(-1, block_bytes)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [blocks, 16] -> [blocks, 32]: byte i holds weight i in its low half and weight i + 16 in its high half."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _pack_nibbles(levels: np.ndarray) -> np.ndarray:
    """uint8 [blocks, 32] of 0..15 -> [blocks, 16]: weight 2i in the low half of byte i, weight 2i + 1 in the high."""
    packed: np.ndarray = levels[:, 0::2] | levels[:, 1::2] << 4
    return packed


def _q8_0(chunk: np.ndarray) -> np.ndarray:
    blocks = _split(chunk, 34)
    weights: np.ndarray = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * _half(blocks[:, :2])
    return weights


def _q4_0(chunk: np.ndarray) -> np.ndarray:
    blocks = _split(chunk, 18)
    weights: np.ndarray = (_nibbles(blocks[:, 2:]).astype(np.float32) - 8) * _half(blocks[:, :2])
    return weights


def _q4_1(chunk: np.ndarray) -> np.ndarray:
    blocks = _split(chunk, 20)
    weights: np.ndarray = _nibbles(blocks[:, 4:]).astype(np.float32) * _half(blocks[:, :2]) + _half(blocks[:, 2:4])
    return weights


_FLOATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": lambda chunk: np.ascontiguousarray(chunk).view("<f4"),
    "F16": _half,
    "BF16": _bfloat16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
}

# Levels uint8 [blocks, 32], scale float32 [blocks, 1], offset float32 [blocks, 1] or None.
_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _q8_0_in_8(chunk: np.ndarray) -> _Parts:
    blocks = _split(chunk, 34)
    return blocks[:, 2:] ^ 0x80, _half(blocks[:, :2]), None


def _q4_0_in_4(chunk: np.ndarray) -> _Parts:
    blocks = _split(chunk, 18)
    return _nibbles(blocks[:, 2:]), _half(blocks[:, :2]), None


def _q4_0_in_8(chunk: np.ndarray) -> _Parts:
    levels, scale, _ = _q4_0_in_4(chunk)
    return levels + 120, scale, None


def _q4_1_in_4(chunk: np.ndarray) -> _Parts:
    blocks = _split(chunk, 20)
    scale = _half(blocks[:, :2])
    return _nibbles(blocks[:, 4:]), scale, _half(blocks[:, 2:4]) + 8 * scale


def _q4_1_in_8(chunk: np.ndarray) -> _Parts:
    blocks = _split(chunk, 20)
    d, m = _half(blocks[:, :2]).astype(np.float64), _half(blocks[:, 2:4]).astype(np.float64)
    levels = _nibbles(blocks[:, 4:])
    count = float(BLOCK)
    total = levels.sum(axis=1, dtype=np.float64, keepdims=True)
    squares = np.square(levels, dtype=np.float64).sum(axis=1, keepdims=True)
    weights = d * levels + m
    largest = np.abs(weights).max(axis=1, keepdims=True)

    # If no k fits (d is 0, or small compared with m): scale the largest weight to the end of the range.
    best_scale = np.where(largest > 0, largest, 1) / 127
    best_levels = np.rint(weights / best_scale)
    best_error = np.square(weights - best_scale * best_levels).sum(axis=1, keepdims=True)
    best_step = np.zeros_like(d)
    best_shift = np.zeros_like(d)
    lowest, highest = levels.min(axis=1, keepdims=True), levels.max(axis=1, keepdims=True)
    ratio = np.divide(m, d, out=np.full_like(m, np.inf), where=d != 0)
    for step in range(1, _MAX_STEPS + 1):
        shift = np.rint(step * ratio)
        fits = (step * lowest + shift >= -128) & (step * highest + shift <= 127)
        shift = np.where(fits, shift, 0)
        # From the sums over u = step * level + shift: the scale of least squared error, and that error.
        of_squares = step * step * squares + 2 * step * shift * total + count * shift * shift
        of_products = d * (step * squares + shift * total) + m * (step * total + count * shift)
        fits &= of_squares > 0
        scale = np.divide(of_products, of_squares, out=np.zeros_like(d), where=fits)
        slope, rest = d - scale * step, m - scale * shift
        error = slope * slope * squares + 2 * slope * rest * total + count * rest * rest
        better = fits & (error < best_error)
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        best_step, best_shift = np.where(better, step, best_step), np.where(better, shift, best_shift)
    on_grid = np.where(best_step > 0, best_step * levels + best_shift, best_levels)
    return (on_grid + 128).astype(np.uint8), best_scale.astype(np.float32), None


_CONVERSIONS: dict[tuple[str, int], Callable[[np.ndarray], _Parts]] = {
    ("Q8_0", 8): _q8_0_in_8,
    ("Q4_0", 8): _q4_0_in_8,
    ("Q4_0", 4): _q4_0_in_4,
    ("Q4_1", 8): _q4_1_in_8,
    ("Q4_1", 4): _q4_1_in_4,
}
