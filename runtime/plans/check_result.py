"""What a run of a new plan beside the whole model showed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanCheck:
    """What a run of a plan beside the whole model showed."""

    ok: bool | None
    """None where the plan was not verified."""
    max_abs: float = 0.0
    """Largest difference in any output."""
    max_rel: float = 0.0
    """The same, relative to the largest magnitude of its output."""
    tolerance: str = ""
    reference: str = ""
    """Id of the device that ran the whole model."""
    skipped_reason: str = ""
    """Why it was not verified; empty where it was."""
    wrong_segment: int | None = None
    """Segment to keep off its device; None where there is none, or none was found."""
    wrong: str = ""
    """What differs, or how the segment failed."""
    wrong_output: str = ""
    """Name of the output that differs; empty where the segment failed."""

    def __str__(self) -> str:
        if self.ok is None:
            return f"not verified: {self.skipped_reason}"
        if not self.ok:
            return f"wrong: {self.wrong}"
        return (
            f"verified against the whole model on {self.reference}: largest difference {self.max_abs:.2g}, "
            f"tolerance {self.tolerance}"
        )


def skipped(reason: str) -> PlanCheck:
    """Return the result for a plan that is not verified."""
    return PlanCheck(None, skipped_reason=reason)
