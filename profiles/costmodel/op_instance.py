"""An operator of a model as the cost models see it: its attributes, and the tensors that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any


@dataclass(frozen=True)
class OpTensor:
    """A tensor at its actual shape; an unknown dimension counts as 1."""

    name: str
    shape: tuple[int, ...]
    size_bytes: int
    constant: bool = False
    """Known before the run: a weight, or arithmetic on shapes."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class OpInstance:
    """One operator of a model."""

    name: str
    op_type: str
    inputs: tuple[OpTensor | None, ...]
    """None for a missing optional input."""
    outputs: tuple[OpTensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, strings, and short lists of them."""
    flops: float = 0.0
    size_bytes: int = 0
    """Bytes read and written, weights included."""
    is_control_flow: bool = False

    @property
    def varying(self) -> list[OpTensor]:
        """Inputs that differ from run to run."""
        return [tensor for tensor in self.inputs if tensor is not None and not tensor.constant]
