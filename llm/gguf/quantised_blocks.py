"""Converts GGUF's blocks of quantised weights to those of ``com.microsoft.MatMulNBits``.

MatMulNBits multiplies by ``scale * (q - 8)`` (4 bits) or ``scale * (q - 128)`` (8 bits), in blocks of at least 16. A
type's levels keep their values in the smallest of the two that holds them all; where a type adds an offset to every
weight of a group, or where 4-bit levels have to be shifted to fit, the graph multiplies the offsets by the sums of the
input's blocks. So every type has an exact form. Two others round, and report by how much:

- in steps: 8 bits without offsets, for types with evenly spaced levels and an offset. With a scale of ``d / k`` for an
  integer k, the levels ``d q + m`` all lie on the 8-bit grid except for one common shift, the distance of ``k m / d``
  from an integer. One of the values of k that fit into 8 bits usually makes that shift small: on real Q4_1 weights the
  error is 0.0023 of their rms, against 0.0056 with a scale of the largest weight / 127. A zero point would make it
  0.0020: not worth the slower kernel.
- wide: 8 bits, one scale for several of the file's groups, rounded to the nearest: 0.006 of the rms in blocks of 64.
  That is less than the error of inputs rounded to 8 bits, which engines with integer kernels add anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trisect.runtime.errors import InvalidModel

from .block_types import BLOCK_TYPES, DENSE_TYPES, BlockType, Groups, Scale
from .gguf_reader import GgufTensor

_CHUNK_ELEMENTS = 1 << 18  # arrays that stay in the processor's cache
_MAX_STEPS = 17  # 15 steps between 16 levels times 17 is the whole range of 8 bits

Rounding = Literal["exact", "steps", "wide"]


@dataclass(frozen=True)
class BlockForm:
    """A form of MatMulNBits' weights."""

    bits: int
    """4 or 8."""
    block: int
    """Number of weights that share a scale."""
    rounding: Rounding
    has_offsets: bool = False
    """True if an offset is added to every weight of a block."""
    shift: int = 0
    """Level that is stored as zero; its product with the scale is part of the offset."""


@dataclass(frozen=True, eq=False)
class QuantBlocks:
    """Rows of weights in a form: ``scale * (q - 2 ** (bits - 1) + shift)``, plus or minus the offset."""

    form: BlockForm
    data: np.ndarray
    """uint8 [rows, blocks, block * bits / 8]; of two 4-bit weights the first is the low half of the byte."""
    scales: Scale
    offsets: Scale | None = None
    subtracts: bool = False
    """True if the offset is subtracted."""

    def floats(self) -> np.ndarray:
        """Return the weights, float32 [rows, blocks, block]."""
        levels = self.data if self.form.bits == 8 else _unpack_nibbles(self.data)
        zero = (1 << (self.form.bits - 1)) - self.form.shift
        centred = (levels.astype(np.int16) - zero).astype(np.int8)
        return Groups(centred, self.scales, self.offsets, self.subtracts).floats()


def exact_form(kind: BlockType) -> BlockForm:
    """Return the form with the fewest bits that holds every weight of a type exactly."""
    lowest, highest = kind.level_range
    bits = 4 if highest - lowest < 16 else 8
    half = 1 << (bits - 1)
    if kind.offsets is None and -half <= lowest and highest < half:
        return BlockForm(bits, kind.group, "exact")
    # Centred levels: engines round the inputs that they multiply by the levels, and the less the smaller these are.
    return BlockForm(bits, kind.group, "exact", has_offsets=True, shift=(lowest + highest + 1) // 2)


def offset_free_form(kind: BlockType) -> BlockForm:
    """Return the exact form if it has no offsets, else the one in steps."""
    exact = exact_form(kind)
    return exact if not exact.has_offsets else BlockForm(8, kind.group, "steps")


def wide_form(block: int) -> BlockForm:
    """Return the form with one scale for `block` weights, a multiple of the type's group."""
    return BlockForm(8, block, "wide")


def widen(blocks: QuantBlocks, bits: int, block: int) -> QuantBlocks:
    """Return the same weights, of a form without offsets, in at least as many bits and in blocks at most as large."""
    form, rows = blocks.form, len(blocks.data)
    data = blocks.data
    if bits > form.bits:
        data = _unpack_nibbles(data) + np.uint8((1 << (bits - 1)) - (1 << (form.bits - 1)))
    scales = np.repeat(blocks.scales.values(), form.block // block, axis=1)
    return QuantBlocks(BlockForm(bits, block, form.rounding), data.reshape(rows, -1, block * bits // 8), Scale(scales))


def convert(groups: Groups, form: BlockForm) -> QuantBlocks:
    """Convert unpacked rows.

    Raises
    ------
    ValueError
        If an exact form cannot hold the weights: nothing is ever rounded under that name.
    """
    if form.rounding == "steps":
        return _in_steps(groups, form)
    if form.rounding == "wide":
        return _rounded(groups, form)
    half = 1 << (form.bits - 1)
    lowest, highest = int(groups.levels.min(initial=0)), int(groups.levels.max(initial=0))
    fits = -half <= lowest - form.shift and highest - form.shift < half
    if not fits or form.block != groups.levels.shape[2] or (groups.offsets is not None) > form.has_offsets:
        raise ValueError(f"levels {lowest} to {highest} in groups of {groups.levels.shape[2]} do not fit into {form}")
    levels = groups.levels.view(np.uint8)
    if half != form.shift:
        levels = levels + np.uint8(half - form.shift)  # wraps around
    data = levels if form.bits == 8 else _pack_nibbles(levels)
    return QuantBlocks(form, data, groups.scales, groups.offsets, groups.subtracts)


def dequantise(tensor: GgufTensor) -> np.ndarray:
    """Return a tensor of any supported type as float32, in its own shape.

    Raises
    ------
    InvalidModel
        If a weight is not a finite number.
    """
    result = np.empty((tensor.rows, tensor.columns), np.float32)
    for rows, data in row_chunks(tensor):
        result[rows] = chunk_floats(tensor, data)
    return result.reshape(tensor.shape)


def row_chunks(tensor: GgufTensor, order: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield runs of whole rows, so that intermediate arrays stay small whatever the tensor's size.

    Parameters
    ----------
    order : numpy.ndarray, optional
        intp [rows]: the tensor's rows in the order in which they are yielded.

    Yields
    ------
    tuple of slice and numpy.ndarray
        Positions in the new order, and the bytes of these rows: uint8 [rows, bytes of a row].

    Raises
    ------
    InvalidModel
        If the file has become shorter meanwhile.
    """
    step = max(1, _CHUNK_ELEMENTS // tensor.columns)
    for start in range(0, tensor.rows, step):
        rows = slice(start, min(start + step, tensor.rows))
        yield rows, tensor.data[rows if order is None else order[rows]]


def chunk_groups(tensor: GgufTensor, data: np.ndarray) -> Groups:
    """Unpack some rows of a quantised tensor.

    Raises
    ------
    InvalidModel
        If a weight is not a finite number.
    """
    groups = BLOCK_TYPES[tensor.type].unpack(data)
    if not groups.are_finite():
        raise _not_finite(tensor)
    return groups


def chunk_floats(tensor: GgufTensor, data: np.ndarray) -> np.ndarray:
    """Return some rows of a tensor of any type as float32 [rows, columns].

    Raises
    ------
    InvalidModel
        If a weight is not a finite number.
    """
    if tensor.type in BLOCK_TYPES:
        return chunk_groups(tensor, data).floats().reshape(len(data), -1)
    values = DENSE_TYPES[tensor.type][1](np.ascontiguousarray(data))
    if not np.isfinite(values).all():
        raise _not_finite(tensor)
    return values


def half_rotation_order(heads: int, head_dim: int) -> np.ndarray:
    """Return the row order that converts a Q or K weight from interleaved rotary embeddings to rotation by halves.

    llama-architecture GGUFs rotate rows 0 and 1, 2 and 3, ... of a head together; ONNX operators, by default, rows 0
    and head_dim / 2, 1 and head_dim / 2 + 1, ... Attention does not change if Q and K are reordered alike.

    Returns
    -------
    numpy.ndarray
        intp [heads * head_dim], for `row_chunks` or for indexing a bias.

    Examples
    --------
    >>> half_rotation_order(2, 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _not_finite(tensor: GgufTensor) -> InvalidModel:
    return InvalidModel(f"tensor {tensor.name} holds a weight that is not finite", remedy="download the file again")


def _pack_nibbles(levels: np.ndarray) -> np.ndarray:
    """uint8 [..., n] of 0..15 -> [..., n / 2]: weight 2i in the low half of byte i, weight 2i + 1 in the high."""
    pairs = levels.view("<u2")
    packed: np.ndarray = (pairs | pairs >> 4).astype(np.uint8)
    return packed


def _unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _rounded(groups: Groups, form: BlockForm) -> QuantBlocks:
    rows = len(groups.levels)
    weights = groups.floats().reshape(rows, -1, form.block)
    largest = np.maximum(weights.max(axis=2), -weights.min(axis=2))
    scales = np.where(largest > 0, largest, 1) / np.float32(127)
    weights /= scales[:, :, None]
    np.rint(weights, out=weights)
    weights += 128
    return QuantBlocks(form, weights.astype(np.uint8), Scale(scales))


def _in_steps(groups: Groups, form: BlockForm) -> QuantBlocks:
    rows, blocks, count = groups.levels.shape
    levels = groups.levels.reshape(-1, count)
    d = groups.scales.values().astype(np.float64).reshape(-1, 1)
    offsets = groups.offset_values()
    m = np.zeros_like(d) if offsets is None else offsets.astype(np.float64).reshape(-1, 1)
    total = levels.sum(axis=1, dtype=np.int32, keepdims=True).astype(np.float64)
    squares = np.square(levels, dtype=np.int16).sum(axis=1, dtype=np.int32, keepdims=True).astype(np.float64)
    lowest, highest = (part.astype(np.float64) for part in (levels.min(1, keepdims=True), levels.max(1, keepdims=True)))
    largest = np.maximum(np.abs(d * lowest + m), np.abs(d * highest + m))

    # If no k fits (d is 0, or small compared with m): scale the largest weight to the end of the range.
    plain_scale = np.where(largest > 0, largest, 1) / 127
    weights = d * levels + m
    plain = np.rint(weights / plain_scale)
    best_scale = plain_scale
    best_error = np.square(weights - plain_scale * plain).sum(axis=1, keepdims=True)
    best_step = np.zeros_like(d)
    best_shift = np.zeros_like(d)
    ratio = np.divide(m, d, out=np.full_like(m, np.inf), where=d != 0)
    for step in range(1, _MAX_STEPS + 1):
        shift = np.rint(step * ratio)
        fits = (step * lowest + shift >= -128) & (step * highest + shift <= 127)
        if not fits.any():
            continue
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
    stored = np.where(best_step > 0, best_step * levels + best_shift, plain) + 128
    scales = best_scale.astype(np.float32).reshape(rows, blocks)
    return QuantBlocks(form, stored.astype(np.uint8).reshape(rows, blocks, count), Scale(scales))
