"""What a placement is worth under its problem's own rules: the one place where strategies and solutions are judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from trisect.runtime.plans.timeline import Schedule
from trisect.scheduler.bounds.lower_bounds import LowerBound, best_bound
from trisect.scheduler.offload.offload_value import offload_value, offload_violations
from trisect.scheduler.problem.problem import Part, Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.energy_and_memory import may_overflow, peak_bytes
from trisect.scheduler.simulation.list_scheduling import schedule_of, starts_of
from trisect.scheduler.simulation.simulate import single_parts
from trisect.scheduler.simulation.validate import Violation, validate_placement, validate_rules, validate_schedule

from ...segments.convex_cut import best_cut


@dataclass(frozen=True)
class Verdict:
    """Value, what is broken, and when what runs."""

    value: float
    violations: tuple[Violation, ...] = ()
    schedule: Schedule | None = None
    parts: tuple[Part, ...] = ()
    """What the placement is cut into, where it is."""


def judge(problem: Problem, proposal: Proposal) -> Verdict:
    """Value of a proposal by the problem's convention; infinite where a rule is broken."""
    placement = proposal.placement
    convention = problem.rules.convention
    found = (
        offload_violations(problem, placement) if convention == "offload" else validate_placement(problem, placement)
    )
    if found:
        return Verdict(inf, tuple(found))
    if convention == "offload":
        return Verdict(offload_value(problem, placement))
    if convention == "segments":
        parts, value, schedule = best_cut(problem, placement, proposal.parts)
        items = 1 + max((event.item for event in schedule.events), default=0)
        peaks = peak_bytes(problem, parts, schedule) if may_overflow(problem, items) else None
        broken = validate_rules(problem, placement, parts, peaks)
        return Verdict(inf if broken else value, tuple(broken), schedule, tuple(parts))
    starts_s = proposal.starts_s or starts_of(problem, placement)
    schedule = schedule_of(problem, placement, starts_s)
    broken = validate_schedule(problem, single_parts(problem, placement), schedule)
    return Verdict(inf if broken else schedule.latency_s, tuple(broken), schedule)


def simple_bound(problem: Problem) -> float:
    """A bound that costs no search."""
    return _simple(problem).value


def certificate(problem: Problem, proposal: Proposal) -> LowerBound:
    """The higher of what costs no search and what the strategy has proven, and how it is known."""
    simple = _simple(problem)
    return LowerBound(proposal.bound, proposal.bound_by or "search") if proposal.bound > simple.value else simple


def _simple(problem: Problem) -> LowerBound:
    if problem.rules.convention != "offload":
        return best_bound(problem)
    from trisect.scheduler.offload.offload_instance import make_instance
    from trisect.scheduler.offload.packing_bound import load_bound
    from trisect.scheduler.offload.path_bound import path_bound

    instance = make_instance(problem)
    if problem.objective == "throughput":
        return LowerBound(load_bound(instance), "load")
    return LowerBound(path_bound(instance), "critical path")
