"""One run of a strategy, judged by validators that are independent of strategies; every fault becomes a reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import inf, isfinite
from time import perf_counter

from trisect.partitioner.strategies import keywords, lookup, propose
from trisect.partitioner.strategies.common.placement_value import closed_bound, evaluate_proposal
from trisect.runtime.errors import one_line
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.simulation.validate import Violation, validate_parts, validate_schedule

from .study_rows import ProblemSize, RunOutcome
from .study_spec import StudyRun

_ROUNDING = 1e-9
_PROVEN_GAP = 1e-6
"""Relative gap that counts as proven: integer solvers prove no tighter."""
_LIMITED_SHARE = 0.25
"""Share of the time limit from which on one of a search's several methods may have been cut short."""


@dataclass(frozen=True)
class BoundedProblem:
    """A problem and its known lower bound."""

    problem: Problem
    bound: float


def size_of(problem: Problem) -> ProblemSize:
    """Return the size and kind of a problem."""
    return ProblemSize(
        len(problem.graph),
        problem.graph.number_of_edges(),
        len(problem.devices),
        problem.objective,
        problem.rules.convention,
    )


def assess(bounded: BoundedProblem, run: StudyRun, time_limit_s: float) -> RunOutcome:
    """Run a strategy and judge its proposal; an exception of the strategy is the reason of a failed run."""
    problem = bounded.problem
    start_s = perf_counter()
    try:
        proposal = propose(problem, run.strategy, time_limit_s=time_limit_s, seed=run.seed)
        plan_time_s = perf_counter() - start_s
        digest = _digest(proposal)
        value, violations = _judge(problem, proposal)
        if run.twice and "time_limit_s" not in keywords(lookup(run.strategy)):
            again = propose(problem, run.strategy, time_limit_s=time_limit_s, seed=run.seed)
            if _digest(again) != digest:
                moved = sum(again.placement.get(task) != device for task, device in proposal.placement.items())
                reason = f"not deterministic: with seed {run.seed} again, {moved} of {len(problem.graph)} tasks moved"
                return RunOutcome("failed", plan_time_s=plan_time_s, reason=reason)
    except (Exception, SystemExit) as error:
        reason = f"raised {one_line(error, 200)}"
        return RunOutcome("failed", plan_time_s=perf_counter() - start_s, reason=reason)
    if violations:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        reason = f"broke the rule {first.kind!r}: {first.message}{more}"
        return RunOutcome("failed", plan_time_s=plan_time_s, reason=reason[:300], rule=first.kind, placement=digest)
    if not isfinite(value):
        return RunOutcome(
            "failed", plan_time_s=plan_time_s, reason=f"its placement has the value {value}", placement=digest
        )
    bound = max(bounded.bound, proposal.bound)
    if not bound <= value * (1 + _ROUNDING):
        reason = f"claims a bound of {bound:g}, above its own value of {value:g}"
        return RunOutcome("failed", plan_time_s=plan_time_s, reason=reason, placement=digest)
    bound = closed_bound(bound, value)
    searches = "time_limit_s" in keywords(lookup(run.strategy))
    is_open = bound < value * (1 - _PROVEN_GAP)
    ended = "time limit" if searches and is_open and plan_time_s >= time_limit_s * _LIMITED_SHARE else "complete"
    return RunOutcome("ok", value, bound, plan_time_s, ended=ended, placement=digest)


def _judge(problem: Problem, proposal: Proposal) -> tuple[float, list[Violation]]:
    evaluation = evaluate_proposal(problem, proposal)
    if evaluation.violations or evaluation.schedule is None or problem.rules.convention != "segments":
        return evaluation.value, list(evaluation.violations)
    # The planner judges its own segments; the validators check the segments and the timeline independently.
    violations = validate_parts(problem, proposal.placement, evaluation.parts)
    violations += validate_schedule(problem, evaluation.parts, evaluation.schedule) if not violations else []
    return (inf if violations else evaluation.value), violations


def _digest(proposal: Proposal) -> str:
    lines = "\n".join(f"{task}\t{device}" for task, device in sorted(proposal.placement.items(), key=str))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
