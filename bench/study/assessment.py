"""One run of one strategy, judged by validators that know nothing of strategies; whatever it does wrong is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import inf, isfinite
from time import perf_counter

from trisect.partitioner.strategies import keywords, lookup, propose
from trisect.partitioner.strategies.common.placement_value import judge
from trisect.runtime.errors import one_line
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.validate import Violation, validate_parts, validate_schedule

from .study_rows import Outcome, Size
from .study_spec import Run

_ROUNDING = 1e-9
_CLOSED = 1e-6
"""Solvers that count in whole numbers prove no nearer than this."""
_NEARLY = 0.25
"""Searches give parts of their time to several methods: from here on one of them may have been cut short."""


@dataclass(frozen=True)
class Prepared:
    """A problem, with what is known of it before anybody tries."""

    problem: Problem
    bound: float


def size_of(problem: Problem) -> Size:
    """What kind of problem it is."""
    return Size(
        len(problem.graph),
        problem.graph.number_of_edges(),
        len(problem.devices),
        problem.objective,
        problem.rules.convention,
    )


def assess(prepared: Prepared, run: Run, time_limit_s: float) -> Outcome:
    """Let a strategy try, and judge what it says.

    A strategy may do anything: what it raises is a reason, never an error of the study's.
    """
    problem = prepared.problem
    begin = perf_counter()
    try:
        proposal = propose(problem, run.strategy, time_limit_s=time_limit_s, seed=run.seed)
        plan_time_s = perf_counter() - begin
        digest = _digest(proposal)
        value, violations = _judge(problem, proposal)
        if run.twice and "time_limit_s" not in keywords(lookup(run.strategy)):
            again = propose(problem, run.strategy, time_limit_s=time_limit_s, seed=run.seed)
            if _digest(again) != digest:
                moved = sum(again.placement.get(task) != device for task, device in proposal.placement.items())
                reason = f"not deterministic: with seed {run.seed} again, {moved} of {len(problem.graph)} tasks moved"
                return Outcome("failed", plan_time_s=plan_time_s, reason=reason)
    except (Exception, SystemExit) as error:
        return Outcome("failed", plan_time_s=perf_counter() - begin, reason=f"raised {one_line(error, 200)}")
    if violations:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        reason = f"broke the rule {first.kind!r}: {first.message}{more}"
        return Outcome("failed", plan_time_s=plan_time_s, reason=reason[:300], rule=first.kind, placement=digest)
    if not isfinite(value):
        return Outcome("failed", plan_time_s=plan_time_s, reason=f"its placement is worth {value}", placement=digest)
    bound = max(prepared.bound, proposal.bound)
    if not bound <= value * (1 + _ROUNDING):
        reason = f"claims a bound of {bound:g}, above its own value of {value:g}"
        return Outcome("failed", plan_time_s=plan_time_s, reason=reason, placement=digest)
    bound = value if bound >= value * (1 - _ROUNDING) else bound
    searches = "time_limit_s" in keywords(lookup(run.strategy))
    is_open = bound < value * (1 - _CLOSED)
    ended = "time limit" if searches and is_open and plan_time_s >= time_limit_s * _NEARLY else "complete"
    return Outcome("ok", value, bound, plan_time_s, ended=ended, placement=digest)


def _judge(problem: Problem, proposal: Proposal) -> tuple[float, list[Violation]]:
    verdict = judge(problem, proposal)
    if verdict.violations or verdict.schedule is None or problem.rules.convention != "segments":
        return verdict.value, list(verdict.violations)
    # The planner's own verdict goes by what it cut; here somebody else looks at the cut and at the timeline.
    found = validate_parts(problem, proposal.placement, verdict.parts)
    found += validate_schedule(problem, verdict.parts, verdict.schedule) if not found else []
    return (inf if found else verdict.value), found


def _digest(proposal: Proposal) -> str:
    lines = "\n".join(f"{task}\t{device}" for task, device in sorted(proposal.placement.items(), key=str))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
