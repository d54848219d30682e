"""Converts single weights of a GGUF file into the forms in which the graphs multiply by them.

Each quantised weight is stored twice, once for each graph. The graph for prefill has them in 8 bits and blocks of 64,
which integer kernels multiply faster than blocks of 32 (OpenVINO 2026.4 computes 512 tokens in 0.88 of the time; with
one scale per row 0.84, but then the divergence from float32 doubles). The graph for decode has them exactly, in the
file's own blocks: decode is memory-bound, and fewer bytes outweigh the extra product for the offsets of Q4_1. Measured
with SmolLM2-135M on two Zen 5 cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..gguf.gguf_reader import GgufTensor
from ..gguf.quantised_blocks import (
    BLOCK,
    QuantBlocks,
    concat_rows,
    dequantise,
    take_rows,
    to_matmulnbits,
    to_wide_blocks,
)
from ..graphs.weights_file import Span, Weight, WeightsFile


@dataclass(frozen=True)
class PhaseWeights:
    """One weight in the form that suits each phase; the same object if one form suits both."""

    prefill: Weight
    decode: Weight


class WeightConverter:
    """Writes tensors to a weights file, in the form for each phase.

    Parameters
    ----------
    output : WeightsFile
    in_blocks : bool
        Store quantised weights in blocks; otherwise everything in float32.
    exact : bool
        Store quantised weights in the file's own blocks too, for decode.
    block : int
        Number of weights in a block for prefill: 32, or a multiple of it.
    """

    def __init__(self, output: WeightsFile, *, in_blocks: bool, exact: bool, block: int) -> None:
        self._output = output
        self._in_blocks = in_blocks
        self._wants_exact = exact and in_blocks
        self._block = block

    def product(self, tensors: Sequence[GgufTensor], orders: Sequence[np.ndarray | None]) -> PhaseWeights:
        """Convert tensors of the same input, stacked, so that one matrix product computes them all.

        Parameters
        ----------
        tensors : sequence of GgufTensor
            Each [rows (outputs), columns (inputs)].
        orders : sequence of numpy.ndarray or None
            For each tensor, the new order of its rows; None keeps it.
        """
        if not (self._in_blocks and _quantised(tensors)):
            dense = [dequantise(tensor) for tensor in tensors]
            weight = self._output.add_dense(
                np.concatenate([w if order is None else w[order] for w, order in zip(dense, orders, strict=True)])
            )
            return PhaseWeights(weight, weight)
        fast = self._stack([self._eight_bits(tensor) for tensor in tensors], orders)
        bits = 4 if all(tensor.type != "Q8_0" for tensor in tensors) else 8
        if not self._wants_exact or (bits == 8 and self._block == BLOCK):
            return PhaseWeights(fast, fast)
        return PhaseWeights(fast, self._stack([to_matmulnbits(tensor, bits) for tensor in tensors], orders))

    def table(self, tensor: GgufTensor) -> Weight:
        """Convert the embedding, whose rows are looked up too, or the output projection."""
        if self._in_blocks and _quantised([tensor]):
            return self._output.add_blocks(to_matmulnbits(tensor, 8))
        return self._output.add_dense(dequantise(tensor))

    def vector(self, tensors: Sequence[GgufTensor], orders: Sequence[np.ndarray | None] = (None,)) -> Span:
        """Convert norms or biases, one after another, to float32."""
        parts = [dequantise(tensor) for tensor in tensors]
        ordered = [v if order is None else v[order] for v, order in zip(parts, orders, strict=True)]
        return self._output.add(np.concatenate(ordered))

    def _eight_bits(self, tensor: GgufTensor) -> QuantBlocks:
        return to_matmulnbits(tensor, 8) if self._block == BLOCK else to_wide_blocks(tensor, self._block)

    def _stack(self, parts: Sequence[QuantBlocks], orders: Sequence[np.ndarray | None]) -> Weight:
        ordered = [part if order is None else take_rows(part, order) for part, order in zip(parts, orders, strict=True)]
        return self._output.add_blocks(concat_rows(ordered) if len(ordered) > 1 else ordered[0])


def _quantised(tensors: Sequence[GgufTensor]) -> bool:
    return all(tensor.type in ("Q8_0", "Q4_0", "Q4_1") for tensor in tensors)
