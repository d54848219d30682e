"""What a strategy says, and what is known of it once it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from trisect.runtime.plans.timeline import Schedule

from ..simulation.validate import Violation
from .problem import Part


@dataclass(frozen=True)
class Proposal:
    """A placement with what the strategy knows beyond it; a strategy may return this instead of a mapping."""

    placement: Mapping[str, str]
    bound: float = 0.0
    """What no placement's value is below, as far as the strategy has proven."""
    starts_s: Mapping[str, float] | None = None
    """When each task begins, where the strategy has a schedule of single tasks in mind."""
    bound_by: str = ""
    """How the strategy has proven it."""
    is_cut_short: bool = False
    """Whether the clock stopped the search, so that another run may find something else."""
    parts: tuple[Part, ...] | None = None
    """Segments that the strategy has in mind, in the order in which they run, where it has."""


@dataclass(frozen=True)
class Solution:
    """A placement judged by the problem's own rules.

    Examples
    --------
    >>> Solution({"a": "cpu:0"}, value=2.0, bound=1.6).gap
    0.25
    """

    placement: Mapping[str, str]
    """Task -> device id."""
    value: float
    """Of the objective: in the problem's unit of time, in joules, or in bytes; infinite where rules are broken."""
    bound: float
    """What no placement's value is below."""
    violations: tuple[Violation, ...] = ()
    """Rules that the placement breaks; empty when it is valid."""
    schedule: Schedule | None = None
    """What runs when, for conventions that say so."""
    strategy: str = ""
    bound_by: str = ""
    """How that is known: ``critical path``, ``load``, ``CP-SAT``, ..."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Of several objectives, where several were asked for: objective -> value."""
    is_cut_short: bool = False
    """Whether the clock stopped the search: the same seed may then give something else."""
    seconds: float = field(default=0.0, compare=False)
    """How long finding it took."""

    @property
    def gap(self) -> float:
        """How far the value is above the bound, as a fraction of the bound."""
        if self.value == self.bound:
            return 0.0
        return self.value / self.bound - 1 if self.bound > 0 else inf

    @property
    def is_valid(self) -> bool:
        """Whether no rule is broken."""
        return not self.violations
