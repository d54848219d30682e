"""GGUF's types of weights: how each stores a block, and how to unpack it into integer levels, scales and offsets.

Every quantised type stands for ``scale * level + offset`` with one scale (and, for some, one offset) per group of 16 or
32 weights. A type is described by its fields, the bits that its levels are put together from, and a function for scales
and offsets; all else derives from that. The K types have blocks of 256 weights, whose groups' scales are products of a
float16 per block and a small integer per group. Layouts: ``ggml-common.h`` and ``ggml-quants.c`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Fields = np.ndarray
"""Blocks: a structured array [blocks] with the fields of their type."""


@dataclass(frozen=True, eq=False)
class Scale:
    """Scales, or offsets, of groups of weights: ``base * factor``, which is exact in float32."""

    base: np.ndarray
    """float16 or float32 [rows, blocks]; in a type's description [blocks]."""
    factor: np.ndarray | None = None
    """int8 or uint8 [rows, groups]; in a type's description [blocks, groups of a block]; None = 1."""

    def values(self) -> np.ndarray:
        """Return float32 [rows, groups]."""
        base = self.base.astype(np.float32)
        if self.factor is None:
            return base
        rows, groups = self.factor.shape
        factor = self.factor.astype(np.float32).reshape(rows, base.shape[1], -1)
        return (base[:, :, None] * factor).reshape(rows, groups)

    def in_rows(self, rows: int) -> Scale:
        """Return them with the blocks of each row in one row."""
        return Scale(self.base.reshape(rows, -1), None if self.factor is None else self.factor.reshape(rows, -1))


@dataclass(frozen=True)
class Bits:
    """Some bits of every level, packed into the bytes of one field.

    The bytes form runs; the lowest bits of a run's bytes belong to its first levels, the next bits to the next, ...
    """

    field: str
    bits: int
    run: int

    def unpack(self, blocks: Fields, levels: np.ndarray, shift: int) -> None:
        """Set some bits of the levels.

        Parameters
        ----------
        levels : numpy.ndarray
            uint8 [blocks, levels of a block]; overwritten if `shift` is 0.
        shift : int
            Position of these bits in a level.
        """
        packed = np.ascontiguousarray(blocks[self.field])
        word = np.dtype(f"u{min(self.run, 8)}")  # several bytes at once; no bit crosses a byte's end
        words = packed.view(word).reshape(len(blocks), -1, self.run // word.itemsize)
        planes = levels.view(word).reshape(len(blocks), words.shape[1], 8 // self.bits, -1)
        every_byte = int.from_bytes(b"\1" * word.itemsize, "little")
        for index in range(8 // self.bits):
            position = index * self.bits
            plane = words & word.type((((1 << self.bits) - 1) << position) * every_byte)
            if position > shift:
                plane >>= word.type(position - shift)
            elif position < shift:
                plane <<= word.type(shift - position)
            if shift == 0:
                planes[:, :, index] = plane
            else:
                planes[:, :, index] |= plane


@dataclass(frozen=True)
class BlockType:
    """A quantised type."""

    fields: np.dtype
    """Layout of a block."""
    bits: tuple[Bits, ...]
    """The bits of a level, lowest first; 8 of them are two's complement."""
    scales: Callable[[Fields], Scale]
    group: int = 32
    """Number of weights that share a scale."""
    zero: int = 0
    """Subtracted from the unpacked number to give the level."""
    table: tuple[int, ...] = ()
    """The level of each unpacked number, if they are not evenly spaced."""
    offsets: Callable[[Fields], Scale] | None = None
    """Added to ``scale * level`` after negation if `subtracts`."""
    subtracts: bool = False

    @property
    def weights(self) -> int:
        """Number of weights in a block."""
        first = self.bits[0]
        return int(self.fields[first.field].itemsize) * 8 // first.bits

    @property
    def size_bytes(self) -> int:
        """Size of a block."""
        return self.fields.itemsize

    @property
    def level_range(self) -> tuple[int, int]:
        """The lowest and the highest level."""
        if self.table:
            return min(self.table), max(self.table)
        count = 1 << sum(part.bits for part in self.bits)
        zero = self.zero if count < 256 else 128
        return -zero, count - 1 - zero

    def unpack(self, data: np.ndarray) -> Groups:
        """Unpack some rows.

        Parameters
        ----------
        data : numpy.ndarray
            uint8 [rows, bytes of a row], C-contiguous, of whole blocks.
        """
        rows = len(data)
        blocks = data.reshape(-1).view(self.fields)
        numbers = np.empty((len(blocks), self.weights), np.uint8)
        shift = 0
        for part in self.bits:
            part.unpack(blocks, numbers, shift)
            shift += part.bits
        if self.table:
            levels = np.take(np.array(self.table, np.int8), numbers)
        else:
            numbers -= np.uint8(self.zero)  # wraps around as int8 does
            levels = numbers.view(np.int8)
        offsets = self.offsets(blocks).in_rows(rows) if self.offsets is not None else None
        levels = levels.reshape(rows, -1, self.group)
        return Groups(levels, self.scales(blocks).in_rows(rows), offsets, self.subtracts)


@dataclass(frozen=True, eq=False)
class Groups:
    """Unpacked rows of weights: ``scale * level + offset``, or minus the offset."""

    levels: np.ndarray
    """int8 [rows, groups, group size]."""
    scales: Scale
    offsets: Scale | None
    subtracts: bool

    def offset_values(self) -> np.ndarray | None:
        """Return what is added to the weights of each group, float32 [rows, groups]."""
        if self.offsets is None:
            return None
        values = self.offsets.values()
        return -values if self.subtracts else values

    def floats(self) -> np.ndarray:
        """Return the weights, float32 [rows, groups, group size], with the same rounding as llama.cpp's."""
        weights = self.levels.astype(np.float32)
        weights *= self.scales.values()[:, :, None]
        if (offsets := self.offset_values()) is not None:
            weights += offsets[:, :, None]
        return weights

    def are_finite(self) -> bool:
        """Return whether every scale, offset and possible weight is a finite number."""
        with np.errstate(over="ignore", invalid="ignore"):
            extremes = [self.scales.values() * np.float32(128)]
            if (offsets := self.offset_values()) is not None:
                extremes.append(offsets)
        return all(bool(np.isfinite(values).all()) for values in extremes)


def _fields(*fields: tuple[str, str] | tuple[str, str, int]) -> np.dtype:
    return np.dtype(list(fields))


def _base(field: str) -> Callable[[Fields], Scale]:
    """One float16 per block."""
    return lambda blocks: Scale(np.ascontiguousarray(blocks[field]))


def _with_factor(field: str, factor: Callable[[Fields], np.ndarray]) -> Callable[[Fields], Scale]:
    """A float16 per block times a small integer per group."""
    return lambda blocks: Scale(np.ascontiguousarray(blocks[field]), factor(blocks))


def _k_scale(blocks: Fields) -> np.ndarray:
    """6-bit scales of Q4_K and Q5_K: 4 in the low bits of bytes 0-3, 4 in nibbles of bytes 8-11 and bits of 0-3."""
    packed = blocks["scales"]
    unpacked: np.ndarray = np.concatenate([packed[:, :4] & 63, packed[:, 8:] & 15 | packed[:, :4] >> 2 & 48], axis=1)
    return unpacked


def _k_minimum(blocks: Fields) -> np.ndarray:
    """6-bit minima of Q4_K and Q5_K: as the scales, in bytes 4-7 and the high nibbles of bytes 8-11."""
    packed = blocks["scales"]
    unpacked: np.ndarray = np.concatenate([packed[:, 4:8] & 63, packed[:, 8:] >> 4 | packed[:, 4:8] >> 2 & 48], axis=1)
    return unpacked


def _q3_scale(blocks: Fields) -> np.ndarray:
    """6-bit scales of Q3_K, minus 32: low nibbles in bytes 0-7, high bits in bytes 8-11."""
    packed = blocks["scales"]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = np.concatenate([packed[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scale: np.ndarray = ((low | high << 4) - np.uint8(32)).view(np.int8)
    return scale


def _iq4_scale(blocks: Fields) -> np.ndarray:
    """6-bit scales of IQ4_XS, minus 32: nibbles in ``scales_l``, high bits in pairs of ``scales_h``."""
    low = np.stack([blocks["scales_l"] & 15, blocks["scales_l"] >> 4], axis=2).reshape(len(blocks), 8)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    scale: np.ndarray = ((low | high << 4) - np.uint8(32)).view(np.int8)
    return scale


def _half_power_of_two(blocks: Fields) -> Scale:
    """``2 ** (e - 128)``, half the E8M0 scale of MXFP4, whose levels are doubled; subnormal for e < 2."""
    return Scale(np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128))


_HALVES = ("d", "<f2"), ("m", "<f2")
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_NIBBLES_32 = Bits("qs", 4, 16)

BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q4_0": BlockType(_fields(("d", "<f2"), ("qs", "u1", 16)), (_NIBBLES_32,), _base("d"), zero=8),
    "Q4_1": BlockType(_fields(*_HALVES, ("qs", "u1", 16)), (_NIBBLES_32,), _base("d"), offsets=_base("m")),
    "Q5_0": BlockType(
        _fields(("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)),
        (_NIBBLES_32, Bits("qh", 1, 1)), _base("d"), zero=16,
    ),
    "Q5_1": BlockType(
        _fields(*_HALVES, ("qh", "u1", 4), ("qs", "u1", 16)),
        (_NIBBLES_32, Bits("qh", 1, 1)), _base("d"), offsets=_base("m"),
    ),
    "Q8_0": BlockType(
        _fields(("d", "<f2"), ("qs", "u1", 32)), (Bits("qs", 8, 32),), _base("d")
    ),
    "Q2_K": BlockType(
        _fields(("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")),
        (Bits("qs", 2, 32),),
        _with_factor("d", lambda blocks: blocks["scales"] & 15),
        group=16,
        offsets=_with_factor("dmin", lambda blocks: blocks["scales"] >> 4),
        subtracts=True,
    ),
    "Q3_K": BlockType(
        _fields(("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")),
        (Bits("qs", 2, 32), Bits("hmask", 1, 32)), _with_factor("d", _q3_scale), group=16, zero=4,
    ),
    "Q4_K": BlockType(
        _fields(("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)),
        (Bits("qs", 4, 32),), _with_factor("d", _k_scale), offsets=_with_factor("dmin", _k_minimum), subtracts=True,
    ),
    "Q5_K": BlockType(
        _fields(("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)),
        (Bits("qs", 4, 32), Bits("qh", 1, 32)),
        _with_factor("d", _k_scale), offsets=_with_factor("dmin", _k_minimum), subtracts=True,
    ),
    "Q6_K": BlockType(
        _fields(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")),
        (Bits("ql", 4, 64), Bits("qh", 2, 32)),
        _with_factor("d", lambda blocks: np.ascontiguousarray(blocks["scales"])), group=16, zero=32,
    ),
    "IQ4_NL": BlockType(
        _fields(("d", "<f2"), ("qs", "u1", 16)), (_NIBBLES_32,), _base("d"), table=_NONLINEAR
    ),
    "IQ4_XS": BlockType(
        _fields(("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)),
        (Bits("qs", 4, 16),), _with_factor("d", _iq4_scale), table=_NONLINEAR,
    ),
    "MXFP4": BlockType(
        _fields(("e", "u1"), ("qs", "u1", 16)), (_NIBBLES_32,), _half_power_of_two, table=_E2M1_DOUBLED
    ),
}  # fmt: skip
"""Quantised types."""


def _half_floats(data: np.ndarray) -> np.ndarray:
    return data.view("<f2").astype(np.float32)


def _bfloat16_floats(data: np.ndarray) -> np.ndarray:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


DENSE_TYPES: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "F32": (4, lambda data: data.view("<f4")),
    "F16": (2, _half_floats),
    "BF16": (2, _bfloat16_floats),
}
"""Unquantised types: bytes of a weight, and its bytes (uint8, C-contiguous) as float32."""

BLOCK_BYTES: Mapping[str, tuple[int, int]] = {
    **{name: (1, size) for name, (size, _) in DENSE_TYPES.items()},
    **{name: (kind.weights, kind.size_bytes) for name, kind in BLOCK_TYPES.items()},
}
"""Supported types: weights and bytes of one block."""
