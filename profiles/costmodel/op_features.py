"""What a cost model may know about a piece of work: its features, and the questions a planner asks about it.

Everything above (the partitioner's graph, the scheduler's problem) and everything below (measured profiles) meets in
these few types, so that a strategy never sees ONNX and a profile never sees a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OpClass(StrEnum):
    """What the hardware feels when an operator runs, decided at its actual shapes."""

    MATMUL = "matmul"
    """Compute-bound matrix product: every weight byte is used for many rows."""
    MATVEC = "matvec"
    """Memory-bound matrix product: few rows, so that reading the weights is the work."""
    CONV = "conv"
    ATTENTION = "attention"
    """A whole attention in one operator."""
    RECURRENT = "recurrent"
    """LSTM, GRU, RNN: steps that wait for each other."""
    NORM = "norm"
    """Normalisations, softmax, reductions: one pass over rows."""
    ELEMENTWISE = "elementwise"
    DATA_MOVEMENT = "data_movement"
    """Moves or copies without computing: Gather, Transpose, Concat, Reshape, Cast."""
    SHAPE = "shape"
    """Arithmetic on shapes and indices: a few integers."""
    CONTROL_FLOW = "control_flow"
    """If, Loop, Scan, with their bodies."""


@dataclass(frozen=True)
class OpFeatures:
    """One operator's work at its actual shapes.

    Examples
    --------
    >>> OpFeatures("MatMul", OpClass.MATVEC, flops=2e6, bytes_read=4_004_000, bytes_written=4_000,
    ...            weight_bytes=4_000_000, dtype="float32").intensity < 1
    True
    """

    op_type: str
    """Operator name; operators outside ONNX's own domain as ``domain::Name``."""
    op_class: OpClass
    flops: float
    """Floating-point (or integer) operations, a multiply-add counted as two."""
    bytes_read: int
    """All that has to be read, weights included; a Gather counts what it picks, a view such as Reshape nothing."""
    bytes_written: int
    weight_bytes: int
    """The part of `bytes_read` that is constant from call to call."""
    dtype: str
    """numpy's name of the dtype computed in (``float32``): that of the first tensor that is no index or mask."""
    body: tuple[OpFeatures, ...] = ()
    """Of a control-flow operator, the operators of its heavier body; the figures above are theirs, all trips."""
    trips: int = 1
    """How often the body runs."""

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOPs per byte moved."""
        return self.flops / max(1, self.bytes_read + self.bytes_written)


@dataclass(frozen=True)
class MemoryNeed:
    """What a loaded model takes of a device's memory, measured.

    Examples
    --------
    >>> MemoryNeed(model_bytes=1000.0, per_weight=2.0, per_tensor=1.5)
    MemoryNeed(model_bytes=1000.0, per_weight=2.0, per_tensor=1.5)
    """

    model_bytes: float = 0.0
    """Of each model (segment) that is loaded, whatever is in it."""
    per_weight: float = 1.0
    """For each byte of weights: an engine that lays them out anew may keep both."""
    per_tensor: float = 1.0
    """For each byte of tensors that lie there at once."""
