"""Converts single weights of a GGUF file into the forms in which the graphs multiply by them.

The exact form is best for decode, which is memory-bound: six products of 2048 x 8192 for one token took ONNX Runtime
1.31 1.7 ms in 4 bits, 2.6 ms in 4 bits with offsets, 3.0 ms in 8 bits, but 5.1 ms in 8 bits with offsets, which are
therefore avoided at a small error unless asked for. Prefill is fastest in 8 bits and blocks of 64 (with one scale per
row it is faster still, but then the divergence from float32 doubles). A second copy in that form gained 5 % at prefill
with SmolLM2-135M and with a random model of 1.2 billion parameters, at 1.1 times the exact weights' size on disk: only
small models get it. Measured with OpenVINO 2026.4 on two cores with AVX-512.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..bundle import Phases, StoredForm
from ..gguf.block_types import BLOCK_BYTES, BLOCK_TYPES, Groups
from ..gguf.gguf_reader import GgufTensor
from ..gguf.quantised_blocks import (
    BlockForm,
    QuantBlocks,
    chunk_floats,
    chunk_groups,
    convert,
    dequantise,
    exact_form,
    offset_free_form,
    row_chunks,
    wide_form,
)
from ..graphs.weights_file import Dense, Linear, ScaleSpan, Span, Stacked, Weight, WeightsFile

Preference = Literal["speed", "exact"]
"""Forms of weights that measured fastest, with a small error, or exact ones only."""
_DENSE_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
}
_Part = tuple[GgufTensor, np.ndarray | None]


@dataclass(frozen=True)
class PhaseWeights:
    """One weight in the form that suits each phase; the same object if one form suits both."""

    prefill: Weight
    decode: Weight


@dataclass
class _Stored:
    """What was stored of one type in one form."""

    weights: int = 0
    squares: float = 0.0
    """Sum of the weights' squares."""
    error_squares: float = 0.0
    """Sum of their errors' squares."""


def decode_form(kind: str, prefer: Preference) -> BlockForm | None:
    """Return the form for decode of weights of a type; None for dense weights."""
    block_type = BLOCK_TYPES.get(kind)
    if block_type is None:
        return None
    exact = exact_form(block_type)
    return offset_free_form(block_type) if prefer == "speed" and exact.bits == 8 else exact


def stored_form(kind: str, phase: Phases, form: BlockForm | None, weights: int, error: float = 0.0) -> StoredForm:
    """Return the record of weights of one type in one form."""
    if form is None:
        return StoredForm(kind, phase, _described(kind, None), weights, error)
    return StoredForm(kind, phase, _described(kind, form), weights, error, form.bits, form.block, form.has_offsets)


def expected_forms(sizes_bytes: Mapping[str, int]) -> tuple[StoredForm, ...]:
    """Return the forms in which an import for speed would store weights of a model too large for a second copy.

    Parameters
    ----------
    sizes_bytes : mapping of str to int
        Type -> size of all tensors of it.
    """
    forms = []
    for kind, size_bytes in sizes_bytes.items():
        weights, block_bytes = BLOCK_BYTES.get(kind, (0, 1))
        forms.append(stored_form(kind, "both", decode_form(kind, "speed"), size_bytes // block_bytes * weights))
    return tuple(forms)


class WeightConverter:
    """Writes tensors to a weights file, in the form for each phase.

    Parameters
    ----------
    output : WeightsFile
    in_blocks : bool
        Store weights as in the file; otherwise everything in float32.
    prefer : {"speed", "exact"}
        For speed, types with offsets and more than 16 levels are rounded to 8 bits without offsets.
    wide_block : int, optional
        Number of weights in a block of a second copy for prefill; None = one form for both phases.
    """

    def __init__(
        self,
        output: WeightsFile,
        *,
        in_blocks: bool = True,
        prefer: Preference = "exact",
        wide_block: int | None = None,
    ) -> None:
        self._output = output
        self.in_blocks = in_blocks
        self._prefer = prefer
        self._wide = wide_form(wide_block) if wide_block is not None else None
        self._stored: dict[tuple[str, BlockForm | None, Phases], _Stored] = {}

    def product(self, tensors: Sequence[GgufTensor], orders: Sequence[np.ndarray | None]) -> PhaseWeights:
        """Convert tensors of the same input, stacked, so that one matrix product computes them all.

        Parameters
        ----------
        tensors : sequence of GgufTensor
            Each [rows (outputs), columns (inputs)].
        orders : sequence of numpy.ndarray or None
            For each tensor, the new order of its rows; None keeps it.
        """
        parts = list(zip(tensors, orders, strict=True))
        forms = [self._form(tensor) for tensor in tensors]
        wide = self._wide
        if wide is None or None in forms:
            weight = self._stack(parts, forms, "both")
            return PhaseWeights(weight, weight)
        prefill = self._stack(parts, [wide] * len(parts), "prefill")
        return PhaseWeights(prefill, self._stack(parts, forms, "decode"))

    def table(self, tensor: GgufTensor) -> Weight:
        """Convert the embedding, whose rows are looked up too, or the output projection."""
        return self._stack([(tensor, None)], [self._form(tensor)], "both")

    def vector(self, tensors: Sequence[GgufTensor], orders: Sequence[np.ndarray | None] = (None,)) -> Span:
        """Convert norms or biases, one after another, to float32."""
        parts = [dequantise(tensor) for tensor in tensors]
        ordered = [v if order is None else v[order] for v, order in zip(parts, orders, strict=True)]
        return self._output.add(np.concatenate(ordered))

    def forms(self) -> tuple[StoredForm, ...]:
        """Return what was stored in which form, and its error."""
        return tuple(
            stored_form(
                kind, phase, form, stored.weights,
                error=math.sqrt(stored.error_squares / stored.squares) if stored.squares else 0.0,
            )
            for (kind, form, phase), stored in self._stored.items()
        )  # fmt: skip

    def dense_dtype(self, tensor: GgufTensor) -> np.dtype[Any]:
        """Return how a tensor is stored where it is not in blocks."""
        plain = np.dtype(np.float32)
        return _DENSE_DTYPES.get(tensor.type, plain) if self.in_blocks else plain

    def record(
        self,
        kind: str,
        form: BlockForm | None,
        groups: Groups | None = None,
        blocks: QuantBlocks | None = None,
        *,
        weights: int = 0,
    ) -> None:
        """Record weights that were stored for both phases: as many as given, or those of `groups`, with their error."""
        stored = self._stored.setdefault((kind, form, "both"), _Stored())
        stored.weights += weights if groups is None else groups.levels.size
        if form is not None and form.rounding != "exact" and groups is not None and blocks is not None:
            _add_errors(stored, groups, blocks)

    def _form(self, tensor: GgufTensor) -> BlockForm | None:
        """Return the form for decode; None for dense weights."""
        return decode_form(tensor.type, self._prefer) if self.in_blocks else None

    def _stack(self, parts: Sequence[_Part], forms: Sequence[BlockForm | None], phase: Phases) -> Weight:
        """Write parts, those of equal form as one."""
        stacks: list[Linear | Dense] = []
        start = 0
        for end in range(1, len(parts) + 1):
            if end == len(parts) or _layout(parts[end][0], forms[end]) != _layout(parts[start][0], forms[start]):
                form = forms[start]
                run = parts[start:end]
                stacks.append(self._dense(run, phase) if form is None else self._linear(run, form, phase))
                start = end
        return stacks[0] if len(stacks) == 1 else Stacked(tuple(stacks))

    def _dense(self, parts: Sequence[_Part], phase: Phases) -> Dense:
        dtype = self.dense_dtype(parts[0][0])
        keeps = dtype == _DENSE_DTYPES.get(parts[0][0].type)
        span = self._output.reserve((sum(tensor.rows for tensor, _ in parts), parts[0][0].columns), dtype)
        row = 0
        for tensor, order in parts:
            for rows, data in row_chunks(tensor, order):
                floats = chunk_floats(tensor, data)  # checks that they are finite
                self._output.write(span, row + rows.start, data.view(dtype) if keeps else floats)
            row += tensor.rows
            self._count(tensor, None, phase).weights += tensor.rows * tensor.columns
        return Dense(span)

    def _linear(self, parts: Sequence[_Part], form: BlockForm, phase: Phases) -> Linear:
        writer: _LinearWriter | None = None
        row = 0
        total = sum(tensor.rows for tensor, _ in parts)
        for tensor, order in parts:
            stored = self._count(tensor, form, phase)
            for rows, data in row_chunks(tensor, order):
                groups = chunk_groups(tensor, data)
                blocks = convert(groups, form)
                writer = writer or _LinearWriter(self._output, total, blocks)
                writer.write(row + rows.start, blocks)
                if form.rounding != "exact":
                    _add_errors(stored, groups, blocks)
            row += tensor.rows
            stored.weights += tensor.rows * tensor.columns
        assert writer is not None
        return writer.linear

    def _count(self, tensor: GgufTensor, form: BlockForm | None, phase: Phases) -> _Stored:
        return self._stored.setdefault((tensor.type, form, phase), _Stored())


@dataclass
class _LinearWriter:
    """Writes one quantised weight, some rows at a time."""

    output: WeightsFile
    rows: int
    first: QuantBlocks
    linear: Linear = field(init=False)

    def __post_init__(self) -> None:
        blocks = self.first
        offsets = None if blocks.offsets is None else self._reserve_scales(blocks.offsets.base, blocks.offsets.factor)
        data = self._reserve(blocks.data)
        scales = self._reserve_scales(blocks.scales.base, blocks.scales.factor)
        self.linear = Linear(blocks.form, data, scales, offsets, blocks.subtracts)

    def write(self, row: int, blocks: QuantBlocks) -> None:
        self.output.write(self.linear.data, row, blocks.data)
        for span, scale in ((self.linear.scales, blocks.scales), (self.linear.offsets, blocks.offsets)):
            if span is not None and scale is not None:
                self.output.write(span.base, row, scale.base)
                if span.factor is not None and scale.factor is not None:
                    self.output.write(span.factor, row, scale.factor)

    def _reserve(self, chunk: np.ndarray) -> Span:
        return self.output.reserve((self.rows, *chunk.shape[1:]), chunk.dtype)

    def _reserve_scales(self, base: np.ndarray, factor: np.ndarray | None) -> ScaleSpan:
        return ScaleSpan(self._reserve(base), None if factor is None else self._reserve(factor))


def _layout(tensor: GgufTensor, form: BlockForm | None) -> object:
    """Return what tensors have to share to be stored as one: types have scales of their own in exact forms."""
    if form is None or form.rounding == "exact":
        return tensor.type, form
    return form


def _add_errors(stored: _Stored, groups: Groups, blocks: QuantBlocks) -> None:
    weights = groups.floats().reshape(-1)
    errors = blocks.floats().reshape(-1)
    errors -= weights
    stored.squares += float(np.dot(weights, weights))
    stored.error_squares += float(np.dot(errors, errors))


def _described(kind: str, form: BlockForm | None) -> str:
    if form is None:
        return kind if kind in _DENSE_DTYPES else "F32"
    offsets = ", offsets" if form.has_offsets else ""
    return f"{form.bits} bits in blocks of {form.block}{offsets}"
