"""What a placement is worth under its problem's own rules: the one place where strategies and solutions are judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from trisect.runtime.timeline import Schedule
from trisect.scheduler.bounds import lower_bound
from trisect.scheduler.lists import schedule_of, starts_of
from trisect.scheduler.offload.definition import offload_value, offload_violations
from trisect.scheduler.problem import Placement, Problem
from trisect.scheduler.simulate import single_parts
from trisect.scheduler.solution import Proposal
from trisect.scheduler.validate import Violation, validate_placement, validate_schedule

from ..cut import best_cut


@dataclass(frozen=True)
class Verdict:
    """Value, what is broken, and when what runs."""

    value: float
    violations: tuple[Violation, ...] = ()
    schedule: Schedule | None = None


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
        _, value, schedule = best_cut(problem, placement)
        return Verdict(value, (), schedule)
    starts_s = proposal.starts_s or starts_of(problem, placement)
    schedule = schedule_of(problem, placement, starts_s)
    broken = validate_schedule(problem, single_parts(problem, placement), schedule)
    return Verdict(inf if broken else schedule.latency_s, tuple(broken), schedule)


def value_of(problem: Problem, placement: Placement) -> float:
    """Value of a placement alone."""
    return judge(problem, Proposal(placement)).value


def simple_bound(problem: Problem) -> float:
    """A bound that costs no search."""
    if problem.rules.convention == "offload":
        from trisect.scheduler.offload.instance import make_instance
        from trisect.scheduler.offload.models import critical_path
        from trisect.scheduler.offload.search import load_bound

        instance = make_instance(problem)
        if problem.objective == "throughput":
            return load_bound(instance)
        return max(critical_path(instance)[0], default=0.0)
    return lower_bound(problem)
