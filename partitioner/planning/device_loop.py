"""Chooses a plan by running candidates on the devices: predictions propose, measurements decide.

Each device alone runs first, then the splits that are predicted to be fastest. Each run corrects the costs, which
changes the predictions of the other splits and what the strategies propose next. In the end the best splits and the
best device alone run in turns.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import inf
from pathlib import Path

from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import EngineFailed, InfeasibleProblem, TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.solution import Proposal

from ..problem.problem_builder import ProblemInputs
from .candidate_placements import (
    CandidatePlacement,
    Signature,
    are_similar,
    evaluated,
    single_candidates,
    split_candidates,
)
from .contender_runs import ContenderRuns
from .cost_correction import corrected, measured_segments, without_wakeups
from .final_turns import MeasuredContender, Ranking, TimeBudget, ranked, run_finals
from .plan_request import SegmentRecorder
from .refused_segments import SegmentsRefused, without_segments

log = logging.getLogger(__name__)

_RUNS_BETWEEN_PLANS = 3
"""Number of splits that run before the strategies propose more."""
_SPLITS_MAX = 16
_PLANNING_SHARE = 0.2
"""Of the time budget, for one call of the strategies."""
_UNLIMITED_PLANNING_S = 60.0
_RUNNING_S = 0.12
_ENOUGH_RATIO = 1.5
"""A plan that takes this many times as long as the best one so far is not repeated."""
_ERROR_START, _ERROR_MIN, _ERROR_MAX = 0.25, 0.08, 0.5
"""Relative error of predicted splits: before any ran, and limits. A split is not run when it is predicted to be slower
than the best measured plan by more than that."""
_TIME_LIMIT_S, _RUNS_IN_LIMIT, _WEIGHT_BYTES_PER_S = 10.0, 60, 50e6
_SPREAD_MAX = 0.2

Write = Callable[[ProblemInputs, Proposal, Path], Plan]
"""Writes the plan of a proposal to a folder, without verifying it."""


@dataclass(frozen=True)
class LoopResult:
    """What running candidates showed."""

    ranking: Ranking
    alone: tuple[MeasuredContender, ...]
    splits_run: int
    notes: tuple[str, ...] = ()
    was_interrupted: bool = False


class DeviceLoop:
    """Runs candidates of one request until the time is over, nothing promising is left, or the user interrupts.

    Parameters
    ----------
    inputs : ProblemInputs
    write : callable
    folder : Path
        Temporary: gets the plans.
    budget : TimeBudget
    runs : ContenderRuns
    record : callable, optional
        Called once with the measured segments of all plans.
    """

    def __init__(
        self,
        inputs: ProblemInputs,
        write: Write,
        folder: Path,
        *,
        budget: TimeBudget,
        runs: ContenderRuns,
        record: SegmentRecorder | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self._inputs, self._write, self._folder, self._runs = inputs, write, folder, runs
        self._record, self._progress, self._budget = record, progress, budget
        self._numbers = count()
        self._contenders: list[MeasuredContender] = []
        self._segments: dict[str, list[MeasuredSegment]] = {}
        self._errors: list[float] = []
        self._notes: list[str] = []
        self._failed: list[CandidatePlacement] = []
        """Those that did not run, or are predicted to be too slow for that."""
        self._is_wiser = True
        """Whether something was learnt since the strategies proposed splits."""

    def choose(self, *, seed: int, plannings_max: int = _SPLITS_MAX) -> LoopResult:
        """Run each device alone and promising splits, and rank them.

        Parameters
        ----------
        seed : int
        plannings_max : int
            How many times the strategies propose splits.

        Raises
        ------
        KeyboardInterrupt
            When the user interrupts before any plan ran.
        """
        with self._until_interrupted() as interruption:
            self._run_devices_alone()
            self._run_splits(seed, plannings_max)
            self._run_finals()
        return self._result(bool(interruption))

    def refine(self, strategy: Callable[[ProblemInputs], Proposal], iterations: int) -> LoopResult:
        """Run the plan of one strategy, and again with corrected costs until it does not change any more.

        Parameters
        ----------
        iterations : int
            Maximum number of further plans.

        Raises
        ------
        TrisectError
            When the strategy finds no plan, or none of its plans runs.
        KeyboardInterrupt
            As `choose`.
        """
        with self._until_interrupted() as interruption:
            for number in range(iterations + 1):
                candidate = evaluated(self._inputs.problem, strategy(self._inputs))
                if candidate is None:
                    raise InfeasibleProblem("the strategy returned a placement that violates a constraint")
                if any(candidate.parts == known.candidate.parts for known in self._contenders):
                    break
                failure = self._run(candidate)
                is_last = number == iterations or self._failed.count(candidate) > 1
                if failure is not None and not self._contenders and is_last:
                    raise failure
            self._run_finals()
        return self._result(bool(interruption))

    @contextmanager
    def _until_interrupted(self) -> Iterator[list[KeyboardInterrupt]]:
        """Keep what ran when the user interrupts; unload the plans in the end, and record their segments."""
        interruption: list[KeyboardInterrupt] = []
        try:
            yield interruption
        except KeyboardInterrupt as error:
            if not self._contenders:
                raise
            interruption.append(error)
        finally:
            self._runs.close()
            if self._record is not None and self._segments:
                self._record(self._segments)

    def _run_devices_alone(self) -> None:
        singles = single_candidates(self._inputs.problem)
        for device, candidate in sorted(singles.items(), key=lambda item: item[1].value):
            best_s = min((contender.value_s for contender in self._contenders), default=inf)
            if candidate.value > best_s and not self._budget.has_time():
                self._notes.append(
                    f"{device} alone was not run: the time budget of {self._budget.seconds:.3g} s was over"
                )
            else:
                self._run(candidate, device)

    def _run_splits(self, seed: int, plannings_max: int) -> None:
        """Run splits, the most promising first; the strategies propose more after every few."""
        pool: list[CandidatePlacement] = []
        plannings, next_planning = 0, 0
        splits_run = 0
        while splits_run < _SPLITS_MAX:
            best = self._next_split(pool)
            if plannings < plannings_max and (splits_run >= next_planning or (best is None and self._is_wiser)):
                if not self._budget.has_time():
                    break
                self._progress(splits_run, _SPLITS_MAX, "planning splits")
                limit_s = (
                    _UNLIMITED_PLANNING_S if self._budget.seconds is None else _PLANNING_SHARE * self._budget.seconds
                )
                pool += split_candidates(self._inputs.problem, seed=seed, time_limit_s=limit_s)
                plannings, next_planning, self._is_wiser = plannings + 1, splits_run + _RUNS_BETWEEN_PLANS, False
                best = self._next_split(pool)
                log.info("%d splits are proposed, the best at %.4g ms", len(pool), pool[0].value * 1e3 if pool else 0.0)
            if best is None:
                return
            if not self._budget.has_time():
                break
            pool.remove(best)
            self._run(best, is_optional=True)
            splits_run = sum(not contender.device for contender in self._contenders)
        if self._budget.seconds is not None and splits_run < _SPLITS_MAX:
            self._notes.append(
                f"the time budget of {self._budget.seconds:.3g} s was over when {splits_run} "
                f"{'split' if splits_run == 1 else 'splits'} had run: more time may find a faster one"
            )

    def _next_split(self, pool: list[CandidatePlacement]) -> CandidatePlacement | None:
        """Return the split with the best prediction by what is known now, if it may be the fastest plan."""
        problem = self._inputs.problem
        known = [*self._failed, *(contender.candidate for contender in self._contenders if not contender.device)]
        renewed: dict[Signature, CandidatePlacement] = {}
        for candidate in pool:
            now = evaluated(problem, Proposal(candidate.proposal.placement, parts=candidate.parts))
            if now is None or len(now.devices) < 2 or any(are_similar(problem, now, other) for other in known):
                continue
            renewed.setdefault(now.parts, now)
        pool[:] = sorted(renewed.values(), key=lambda candidate: candidate.value)
        best_s = min((contender.value_s for contender in self._contenders), default=inf)
        return pool[0] if pool and pool[0].value * (1 - self._prediction_error) < best_s else None

    @property
    def _prediction_error(self) -> float:
        """Typical relative error of the splits that ran, and what their intervals say; a guess before the first."""
        return min(max(statistics.median(self._errors or [_ERROR_START]), _ERROR_MIN), _ERROR_MAX)

    def _run(
        self, candidate: CandidatePlacement, device: str = "", *, is_optional: bool = False
    ) -> TrisectError | None:
        """Write and run a candidate, and learn from it; return why it is left out.

        An optional one is not run when even the lower end of its plan's interval is slower than the best.
        """
        start_s = time.monotonic()
        what = f"{device} alone" if device else f"split {len(self._contenders) + 1}"
        self._progress(len(self._contenders), _SPLITS_MAX, f"running {what}")
        best_s = min((contender.value_s for contender in self._contenders), default=inf)
        plan = None
        try:
            proposal = Proposal(candidate.proposal.placement, parts=candidate.parts)
            plan = self._write(self._inputs, proposal, self._folder / str(next(self._numbers)))
            if is_optional and plan.interval is not None and plan.interval[0] > best_s:
                self._failed.append(candidate)
                return None
            runs = self._runs.first(
                plan, duration_s=_RUNNING_S, enough_s=_ENOUGH_RATIO * best_s, time_limit_s=self._time_limit_s(plan)
            )
        except (TrisectError, MemoryError) as error:
            failure = error if isinstance(error, TrisectError) else EngineFailed("there is not enough memory")
            self._leave_out(what, candidate, plan, failure)
            return failure
        log.info(
            "%s in %d segments: predicted %.4g ms, measured %.4g ms",
            what, len(plan.segments), plan.value * 1e3, runs.value_s * 1e3,
        )  # fmt: skip
        self._contenders.append(MeasuredContender(plan, candidate, runs.value_s, device))
        if not device and plan.value > 0:
            self._errors.append(abs(runs.value_s / plan.value - 1))
            if plan.interval is not None:
                self._errors.append(1 - plan.interval[0] / plan.value)
        self._learn(plan, runs.timing)
        self._budget.add_cost(time.monotonic() - start_s)
        return None

    def _learn(self, plan: Plan, timing: PlanTiming) -> None:
        warm = without_wakeups(self._inputs, plan, timing)
        for device, rows in measured_segments(self._inputs, plan, warm).items():
            self._segments.setdefault(device, []).extend(rows)
        self._inputs = corrected(self._inputs, plan, warm)
        self._is_wiser = True

    def _leave_out(self, what: str, candidate: CandidatePlacement, plan: Plan | None, failure: TrisectError) -> None:
        """Note why a candidate is left out; a segment of a split that its device refused is kept off it."""
        log.info("%s is left out: %s", what, failure)
        self._notes.append(f"{what} is left out: {failure.reason}")
        self._failed.append(candidate)
        index = failure.segment if isinstance(failure, EngineFailed) else None
        if plan is not None and index is not None and len(candidate.devices) > 1:
            without = without_segments(self._inputs, SegmentsRefused([(plan.segments[index], failure.reason)]))
            if _is_feasible(without):
                self._inputs = without

    def _run_finals(self) -> None:
        """Run the best in turns; where that fails, what ran before has to do."""
        if not self._contenders:
            return
        self._progress(0, 0, "running the best plans in turns")
        try:
            finals = run_finals(self._contenders, self._runs, self._budget.left_s)
            for failed in finals.failed:
                self._contenders.remove(failed)
                self._notes.append(f"{_name(failed)} is left out: it ran at first, and failed later")
            if finals.was_disturbed:
                self._notes.append(
                    "other processes used the processor while plans ran, so that their times may be wrong"
                )
        except ChildProcessFailed as error:
            self._notes.append(f"the best plans did not run in turns: {error.reason}")

    def _result(self, was_interrupted: bool) -> LoopResult:
        alone = tuple(contender for contender in self._contenders if contender.device)
        best = min(alone, key=lambda contender: contender.measured_s, default=None)
        if best is not None and best.spread > _SPREAD_MAX:
            self._notes.append(
                f"{best.device} alone took {best.measured_s * 1e3:.3g} ms, and varied by {best.spread:.0%} meanwhile: "
                "something else used the machine, or it slowed down"
            )
        if was_interrupted:
            self._notes.append(f"interrupted after {len(self._contenders)} plans ran")
        splits_run = len(self._contenders) - len(alone)
        return LoopResult(ranked(self._contenders), alone, splits_run, tuple(self._notes), was_interrupted)

    def _time_limit_s(self, plan: Plan) -> float:
        weight_bytes = plan.weights.size_bytes if plan.weights is not None else 0
        return _TIME_LIMIT_S + _RUNS_IN_LIMIT * plan.predicted.latency_s + weight_bytes / _WEIGHT_BYTES_PER_S


def _is_feasible(inputs: ProblemInputs) -> bool:
    try:
        return bool(inputs.problem.device_ids)
    except TrisectError:  # no other device may run the nodes of a refused segment
        return False


def _name(contender: MeasuredContender) -> str:
    return f"{contender.device} alone" if contender.device else "a split"
