"""The features of an operator by which it is costed, and the classes of operators.

The partitioner's graph, the scheduler's problem and the measured profiles share these types, so that a strategy never
sees ONNX and a profile never sees a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OpClass(StrEnum):
    """What limits the speed of an operator, decided at its actual shapes."""

    MATMUL = "matmul"
    """Compute-bound matrix product: every weight is used for many rows."""
    MATVEC = "matvec"
    """Memory-bound matrix product: few rows, so that reading the weights dominates."""
    CONV = "conv"
    ATTENTION = "attention"
    """Fused attention in one operator."""
    RECURRENT = "recurrent"
    """LSTM, GRU, RNN: sequential steps."""
    NORM = "norm"
    """Normalisations, softmax, reductions: one pass over rows."""
    ELEMENTWISE = "elementwise"
    DATA_MOVEMENT = "data_movement"
    """Moves or copies without arithmetic: Gather, Transpose, Concat, Reshape, Cast."""
    SHAPE = "shape"
    """Arithmetic on shapes and indices: a few integers."""
    CONTROL_FLOW = "control_flow"
    """If, Loop, Scan, with their bodies."""


@dataclass(frozen=True)
class OpFeatures:
    """The work of one operator at its actual shapes."""

    op_type: str
    """Operator name; ``domain::Name`` outside ONNX's own domain."""
    op_class: OpClass
    flops: float
    """Floating-point or integer operations; a multiply-add counts as two."""
    bytes_read: int
    """Weights included; a Gather counts the elements it picks, a view such as Reshape counts none."""
    bytes_written: int
    weight_bytes: int
    """The constant part of `bytes_read`."""
    dtype: str
    """numpy's name of the dtype computed in (``float32``): of the first tensor that is not an index or a mask."""
    body: tuple[OpFeatures, ...] = ()
    """For control flow, the operators of the larger body; the figures above are their sums over all trips."""
    trips: int = 1
    """How often the body runs."""
