"""A measured figure of the runtime, compared with its target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RuntimeFigure:
    """One measured figure and its target."""

    case: str
    what: str
    value: float
    unit: str
    promised: float
    """The target."""
    at_most: bool
    """Whether the target is an upper bound, else a lower one."""
    detail: Mapping[str, float] = field(default_factory=dict)
    """Figures that the value is computed from, with the unit in each name."""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.promised if self.at_most else self.value >= self.promised
