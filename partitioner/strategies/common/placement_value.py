"""The value of a placement under its problem's own rules: the one place where proposals are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from trisect.runtime.plans.timeline import Schedule
from trisect.scheduler.bounds.lower_bounds import LowerBound, best_bound
from trisect.scheduler.offload.calls.path_bound import path_bound
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.offload.packing_bound import load_bound
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.energy_and_memory import may_overflow, peak_bytes
from trisect.scheduler.simulation.list_scheduling import list_schedule_starts, task_schedule
from trisect.scheduler.simulation.simulate import single_parts
from trisect.scheduler.simulation.validate import Violation, validate_placement, validate_rules, validate_schedule

from ...segments.convex_cut import best_cut

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Evaluation:
    """The value of a proposal, its violations, and its schedule."""

    value: float
    violations: tuple[Violation, ...] = ()
    schedule: Schedule | None = None
    parts: tuple[Part, ...] = ()
    """Segments that the placement is cut into, if the convention has segments."""


def evaluate_proposal(problem: Problem, proposal: Proposal) -> Evaluation:
    """Return the value of a proposal by the problem's convention; infinite where a rule is violated."""
    placement = proposal.placement
    convention = problem.rules.convention
    violations = (
        offload_violations(problem, placement) if convention == "offload" else validate_placement(problem, placement)
    )
    if violations:
        return Evaluation(inf, tuple(violations))
    if convention == "offload":
        return Evaluation(offload_value(problem, placement))
    if convention == "segments":
        parts, value, schedule = best_cut(problem, placement, proposal.parts)
        items = 1 + max((event.item for event in schedule.events), default=0)
        peaks = peak_bytes(problem, parts, schedule) if may_overflow(problem, items) else None
        violations = validate_rules(problem, placement, parts, peaks)
        return Evaluation(inf if violations else value, tuple(violations), schedule, tuple(parts))
    starts_s = proposal.starts_s or list_schedule_starts(problem, placement)
    schedule = task_schedule(problem, placement, starts_s)
    violations = validate_schedule(problem, single_parts(problem, placement), schedule)
    return Evaluation(inf if violations else schedule.latency_s, tuple(violations), schedule)


def simple_bound(problem: Problem) -> float:
    """Return a lower bound that needs no search."""
    return _simple_bound(problem).value


def certificate(problem: Problem, proposal: Proposal) -> LowerBound:
    """Return the higher of the bound without search and the one that the strategy has proven."""
    simple = _simple_bound(problem)
    return LowerBound(proposal.bound, proposal.bound_by or "search") if proposal.bound > simple.value else simple


def closed_bound(bound: float, value: float) -> float:
    """Return the bound, or the value itself where it is not above the bound but for rounding: proven optimal.

    Examples
    --------
    >>> closed_bound(1.5, 2.0), closed_bound(2.0000001, 2.0), closed_bound(1.9999999999, 2.0)
    (1.5, 2.0, 2.0)
    """
    return value if bound >= value * (1 - _ROUNDING) else bound


def _simple_bound(problem: Problem) -> LowerBound:
    if problem.rules.convention != "offload":
        return best_bound(problem)
    instance = make_instance(problem)
    if problem.objective == "throughput":
        return LowerBound(load_bound(instance), "load")
    return LowerBound(path_bound(instance), "critical path")
