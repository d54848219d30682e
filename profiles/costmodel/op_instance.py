"""One operator of a model as a cost model sees it: what it is called with, and what it reads and makes."""

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
    """Known before anything runs: a weight, or arithmetic on shapes."""

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class OpInstance:
    """One operator."""

    name: str
    op_type: str
    inputs: tuple[OpTensor | None, ...]
    """A missing optional one is None."""
    outputs: tuple[OpTensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, words, and short lists of them."""
    flops: float = 0.0
    size_bytes: int = 0
    """Read and written, weights included."""
    is_control_flow: bool = False

    @property
    def varying(self) -> list[OpTensor]:
        """Inputs that differ from call to call."""
        return [tensor for tensor in self.inputs if tensor is not None and not tensor.constant]
