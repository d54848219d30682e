"""One row a run: what a study keeps, and nothing that has to be looked up elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Status = Literal["ok", "failed", "no problem"]


@dataclass(frozen=True)
class Size:
    """What kind of problem an instance is."""

    tasks: int
    edges: int
    devices: int
    objective: str
    rules: str
    """How placements are judged: segments, offload or tasks (`trisect.scheduler.problem.rules`)."""


@dataclass(frozen=True)
class Outcome:
    """What one strategy did with one problem."""

    status: Status
    """``failed`` is the strategy's fault; ``no problem`` that of the workload's file."""
    value: float | None = None
    """Of the objective, in the problem's unit of time."""
    bound: float = 0.0
    """What no placement's value is below, as far as this run or the workload's authors have proven."""
    plan_time_s: float = 0.0
    """Measured, on whatever machine this was; the one number that another run does not repeat."""
    reason: str = ""
    """Why there is no value."""
    rule: str = ""
    """The rule that was broken, by the validator's name for it."""
    ended: str = "complete"
    """``time limit`` where a search was not finished: a quicker machine may find better."""
    placement: str = ""
    """The start of the placement's hash: equal ones are equal."""


@dataclass(frozen=True)
class Row:
    """One run, with what it was a run of."""

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
    """How far the value is above the bound, as a fraction of the bound; None where the bound says nothing."""
    plan_time_s: float
    ended: str
    reason: str
    rule: str
    placement: str
    source: str
    """Where the value comes from: ``simulated``, always."""
    versions: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells one run of a study from another."""
        return self.workload, self.instance, self.strategy, self.seed


COLUMNS = tuple(field.name for field in fields(Row))


def make_row(key: tuple[str, str, str, int], size: Size, outcome: Outcome, versions: str) -> Row:
    """Join what is known before and after a run.

    Examples
    --------
    >>> row = make_row(("w", "i", "heft", 0), Size(2, 1, 2, "latency", "tasks"), Outcome("ok", 3.0, 2.0), "")
    >>> row.gap, row.source
    (0.5, 'simulated')
    """
    value, bound = outcome.value, outcome.bound
    gap = None
    if value is not None:
        gap = 0.0 if value == bound else (value / bound - 1 if bound > 0 else None)
    return Row(
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
