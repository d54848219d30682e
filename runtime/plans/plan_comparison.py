"""A plan beside each of its devices alone: what splitting gains, measured or predicted."""

from __future__ import annotations

from dataclasses import dataclass

from .timeline import Source


@dataclass(frozen=True)
class ComparedTime:
    """The time of one way to run a model."""

    what: str
    """``cpu:ort alone``, ``this split``."""
    seconds: float
    """Of one item: the latency, or the time per item of a stream."""
    source: Source
    interval: tuple[float, float] | None = None
    """Contains the measured time with 90 % probability; None where that is not known, or it was measured."""


@dataclass(frozen=True)
class PlanComparison:
    """The time of a plan, and of each device that can run the whole model.

    Examples
    --------
    >>> alone = ComparedTime("cpu:ort alone", 0.012, "measured"), ComparedTime("gpu:x alone", 0.015, "measured")
    >>> comparison = PlanComparison(alone, ComparedTime("this split", 0.01, "measured"), noise=0.01, splits_run=3)
    >>> round(comparison.gain, 3), comparison.best_alone.what
    (0.2, 'cpu:ort alone')
    """

    alone: tuple[ComparedTime, ...]
    """One for each device that can run the model alone."""
    plan: ComparedTime
    is_split: bool = True
    """Whether the plan uses several devices."""
    noise: float | None = None
    """Relative differences below this one are noise; None where no split ran in turns with the best device alone."""
    splits_run: int = 0
    """Number of splits that ran before the plan was chosen."""

    @property
    def rows(self) -> tuple[ComparedTime, ...]:
        """All times, that of the plan last."""
        return (*self.alone, self.plan)

    @property
    def best_alone(self) -> ComparedTime | None:
        """The fastest device alone; None where none can run the whole model.

        A prediction is compared with a measured plan only where no device was measured.
        """
        comparable = [row for row in self.alone if row.source == self.plan.source] or self.alone
        return min(comparable, key=lambda row: row.seconds, default=None)

    @property
    def gain(self) -> float | None:
        """How much faster the plan is than the fastest device alone, as a share: 0.2 = 20 % more items in a time."""
        best = self.best_alone
        return best.seconds / self.plan.seconds - 1 if best is not None and self.plan.seconds > 0 else None

    @property
    def summary(self) -> str:
        """Whether splitting pays, in one sentence.

        Examples
        --------
        >>> alone = (ComparedTime("cpu:ort alone", 0.01, "predicted"),)
        >>> PlanComparison(alone, ComparedTime("this split", 0.02, "predicted")).summary
        'splitting does not pay here: cpu:ort alone is 2 times as fast as this split, predicted'
        """
        best, gain = self.best_alone, self.gain
        if best is None or gain is None:
            return "no device can run this model alone"
        how = self.plan.source if best.source == self.plan.source else f"{self.plan.source} against {best.source}"
        if self.is_split and gain > 0:
            return f"this split is {gain:.1%} faster than {best.what}, {how}"
        if self.is_split:
            return (
                f"splitting does not pay here: {best.what} is {1 / (1 + gain):.3g} times as fast as this split, {how}"
            )
        if len(self.alone) < 2 and not self.splits_run:
            return f"nothing was split: {best.what} is the only choice"
        if self.plan.source == "predicted":
            return f"splitting does not pay here: no split is predicted to be enough faster than {best.what}"
        if not self.splits_run:
            return f"splitting does not pay here: no split was predicted to come near {best.what}"
        splits = "the split" if self.splits_run == 1 else f"none of the {self.splits_run} splits"
        verb = "was not" if self.splits_run == 1 else "was"
        margin = f" by more than the noise of {self.noise:.1%}" if self.noise is not None else ""
        return f"splitting does not pay here: {splits} that ran {verb} faster than {best.what}{margin}"
