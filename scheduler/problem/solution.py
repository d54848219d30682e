"""The result of a strategy, before and after its evaluation: Proposal and Solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from trisect.runtime.plans.timeline import Schedule

from ..simulation.validate import Violation
from .problem import Part


@dataclass(frozen=True)
class Proposal:
    """A placement with what the strategy has proven about it; a strategy may return this instead of a mapping."""

    placement: Mapping[str, str]
    bound: float = 0.0
    """Proven lower bound of every placement's value."""
    starts_s: Mapping[str, float] | None = None
    """Start of each task, if the strategy schedules single tasks."""
    bound_by: str = ""
    """How the bound is proven."""
    is_cut_short: bool = False
    """Whether the clock stopped the search, so that another run may give another result."""
    parts: tuple[Part, ...] | None = None
    """Segments in the order in which they run, if the strategy cuts the placement itself."""


@dataclass(frozen=True)
class Solution:
    """A placement evaluated by the problem's own rules.

    Examples
    --------
    >>> Solution({"a": "cpu:0"}, value=2.0, bound=1.6).gap
    0.25
    """

    placement: Mapping[str, str]
    """Task -> device id."""
    value: float
    """Of the objective: in the problem's unit of time, in joules, or in bytes; infinite where rules are violated."""
    bound: float
    """Lower bound of every placement's value."""
    violations: tuple[Violation, ...] = ()
    """Rules that the placement violates; empty when it is valid."""
    schedule: Schedule | None = None
    """Predicted timeline, for conventions with one."""
    strategy: str = ""
    bound_by: str = ""
    """How the bound is proven: ``critical path``, ``load``, ``CP-SAT``, ..."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Objective -> value, for a Pareto front."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Objective -> the interval that contains its measured value with 90 % probability; only where that is known."""
    is_cut_short: bool = False
    """Whether the clock stopped the search: the same seed may then give another result."""
    seconds: float = field(default=0.0, compare=False)
    """Planning time."""

    @property
    def gap(self) -> float:
        """Relative optimality gap: (value - bound) / bound."""
        if self.value == self.bound:
            return 0.0
        return self.value / self.bound - 1 if self.bound > 0 else inf

    @property
    def is_valid(self) -> bool:
        """Whether no rule is violated."""
        return not self.violations
