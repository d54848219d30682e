"""Segments that a device refuses, or that it computes differently: their nodes are kept off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trisect.runtime.errors import EngineFailed, VerificationFailed
from trisect.runtime.plans.check_result import PlanCheck
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment

from ..problem.device_support import described
from ..problem.problem_builder import ProblemInputs
from ..problem.task_grouping import task_of_node

_REMEDY = "split without that device; if the difference is acceptable, give a --tolerance or --no-verify"


class SegmentsRefused(EngineFailed):
    """Segments that do not compile on their devices."""

    verb = "does not compile"
    why_not = "does not compile there together with others"

    def __init__(self, refused: list[tuple[Segment, str]]) -> None:
        segment, reason = refused[0]
        super().__init__(
            f"{described(segment)} {self.verb} on {segment.device}: {reason}",
            remedy=f"split without {segment.device}",
        )
        self.refused = refused

    def note(self, segment: Segment, reason: str) -> str:
        """Return what the plan says of a segment."""
        return f"{described(segment)} {self.verb} on {segment.device}, so its nodes are kept off it: {reason}"


class SegmentsDiffer(SegmentsRefused):
    """A segment that computes something else on its device than the whole model."""

    verb = "computes something else"
    why_not = "computes something else there"

    def __init__(self, segment: Segment, check: PlanCheck) -> None:
        # Without the size of the difference: the note is part of the plan, which has the same bytes each time.
        super().__init__([(segment, f"output {check.wrong_output!r} differs" if check.wrong_output else check.wrong)])
        self._check = check

    def unresolved(self) -> VerificationFailed:
        """Return the error for a plan that cannot do without the segment."""
        segment, _ = self.refused[0]
        return VerificationFailed(
            f"{described(segment)} {self.verb} on {segment.device} than the whole model on {self._check.reference}: "
            f"{self._check.wrong} (tolerance {self._check.tolerance}), and the nodes cannot be placed elsewhere",
            remedy=_REMEDY,
        )


def gathered(refusals: Sequence[SegmentsRefused]) -> SegmentsRefused:
    """Return refusals as one; of segments that compute something else, the first alone."""
    differing = next((refusal for refusal in refusals if isinstance(refusal, SegmentsDiffer)), None)
    return differing or SegmentsRefused([pair for refusal in refusals for pair in refusal.refused])


def without_segments(inputs: ProblemInputs, refusal: SegmentsRefused) -> ProblemInputs:
    """Return the inputs with the nodes of refused segments kept off their devices."""
    owner = task_of_node(inputs.tasks)
    more = {
        (owner[node], segment.device): f"{refusal.why_not}: {reason}"
        for segment, reason in refusal.refused
        for node in segment.nodes
        if node in owner
    }
    return replace(inputs, refused={**inputs.refused, **more})


def raise_wrong(plan: Plan, check: PlanCheck) -> None:
    """Raise the error for a plan that was found to be wrong.

    Raises
    ------
    SegmentsDiffer
        Where a segment is at fault.
    VerificationFailed
        Otherwise.
    """
    segment = next((s for s in plan.segments if s.index == check.wrong_segment), None)
    if segment is not None:
        raise SegmentsDiffer(segment, check)
    raise VerificationFailed(
        f"the plan computes something else than the whole model on {check.reference}: {check.wrong} "
        f"(tolerance {check.tolerance})",
        remedy=_REMEDY,
    )
