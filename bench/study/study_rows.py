"""The rows of a study: one self-contained row for each run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Status = Literal["ok", "failed", "no problem"]


@dataclass(frozen=True)
class ProblemSize:
    """Size and kind of an instance's problem."""

    tasks: int
    edges: int
    devices: int
    objective: str
    rules: str
    """How placements are judged: segments, offload or tasks (`trisect.scheduler.problem.rules`)."""


@dataclass(frozen=True)
class RunOutcome:
    """Result of one strategy on one problem."""

    status: Status
    """``failed``: a fault of the strategy; ``no problem``: the workload's problem could not be built."""
    value: float | None = None
    """Of the objective, in the problem's unit of time."""
    bound: float = 0.0
    """Proven lower bound of any placement's value, of this run or of the workload's authors."""
    plan_time_s: float = 0.0
    """Measured: the one figure that is not reproducible."""
    reason: str = ""
    """Why there is no value."""
    rule: str = ""
    """The validator's name of the rule that was broken."""
    ended: str = "complete"
    """``time limit`` where a search was cut short: a faster machine may find better."""
    placement: str = ""
    """Prefix of the placement's hash."""


@dataclass(frozen=True)
class StudyRow:
    """One run with its workload, instance, strategy and seed."""

    workload: str
    instance: str
    strategy: str
    seed: int
    tasks: int
    edges: int
    devices: int
    objective: str
    rules: str
    status: Status
    value: float | None
    bound: float
    gap: float | None
    """How far the value is above the bound, as a fraction of the bound; None for a bound of 0."""
    plan_time_s: float
    ended: str
    reason: str
    rule: str
    placement: str
    source: str
    """Source of the value: always ``simulated``."""
    versions: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Identity of the run within its study."""
        return self.workload, self.instance, self.strategy, self.seed


COLUMNS = tuple(field.name for field in fields(StudyRow))


def make_row(key: tuple[str, str, str, int], size: ProblemSize, outcome: RunOutcome, versions: str) -> StudyRow:
    """Return the row of a run.

    Examples
    --------
    >>> row = make_row(("w", "i", "heft", 0), ProblemSize(2, 1, 2, "latency", "tasks"), RunOutcome("ok", 3.0, 2.0), "")
    >>> row.gap, row.source
    (0.5, 'simulated')
    """
    value, bound = outcome.value, outcome.bound
    gap = None
    if value is not None:
        gap = 0.0 if value == bound else (value / bound - 1 if bound > 0 else None)
    return StudyRow(
        *key,
        tasks=size.tasks,
        edges=size.edges,
        devices=size.devices,
        objective=size.objective,
        rules=size.rules,
        status=outcome.status,
        value=value,
        bound=bound,
        gap=gap,
        plan_time_s=outcome.plan_time_s,
        ended=outcome.ended,
        reason=outcome.reason,
        rule=outcome.rule,
        placement=outcome.placement,
        source="simulated",
        versions=versions,
    )
