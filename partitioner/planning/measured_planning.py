"""Plans by running: decides whether a request's plans run, and makes the plan of what the runs showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.check_result import PlanCheck, skipped
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.scheduler.problem.solution import Proposal

from ..problem.problem_builder import ProblemInputs
from ..strategies import propose
from .candidate_placements import single_candidates
from .compared_devices import measured_comparison
from .contender_runs import ContenderRuns
from .device_loop import DeviceLoop, LoopResult, Write
from .final_turns import MeasuredContender, TimeBudget
from .plan_request import PlanRequest, SegmentRecorder
from .refused_segments import SegmentsDiffer, raise_wrong

BUDGET_S = 4.5
"""Default time for planning and running candidates."""
_PREDICTED_MAX_S = 20.0
_RUNS, _WEIGHT_BYTES_PER_S = 8, 100e6
"""Of the first runs of a plan, to estimate whether there is time for them."""


class SplitInterrupted(KeyboardInterrupt):
    """The user interrupted while plans ran; the best plan so far is written."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan


def runs_plans(request: PlanRequest) -> bool:
    """Return whether candidates of a request are run, rather than only predicted.

    Raises
    ------
    InvalidInput
        When the request asks for it, and it is impossible.
    """
    is_asked_for = request.refine > 0 or request.budget_s is not None
    if request.budget_s is not None and not (request.strategy == "auto" or request.refine):
        raise InvalidInput(
            f"the strategy {request.strategy!r} runs no plans, so that it needs no time budget",
            remedy="use the strategy auto, or --refine",
        )
    if is_asked_for and not request.measure:
        raise InvalidInput("plans are not run, so that there is nothing to refine", remedy="leave --no-measure out")
    if not request.refine and not (request.measure and request.strategy == "auto"):
        return False
    obstacle = _obstacle(request.objective, request.devices)
    if obstacle and is_asked_for:
        raise InvalidInput(obstacle, remedy="leave --refine and --budget out")
    return not obstacle and (request.refine > 0 or len(request.devices) > 1)


def budget_s(request: PlanRequest) -> float | None:
    """Return the time for running a request's candidates; None = no limit."""
    return BUDGET_S if request.budget_s is None and not request.refine else request.budget_s


def plan_by_running(
    request: PlanRequest,
    inputs: ProblemInputs,
    out_folder: Path,
    *,
    write: Write,
    check: Callable[[Plan], PlanCheck] | None,
    record: SegmentRecorder | None,
    progress: Progress,
) -> tuple[Plan | None, tuple[str, ...]]:
    """Run candidates of a request, and write the best plan that computes what the whole model does.

    Parameters
    ----------
    out_folder : Path
        New, or that of an earlier plan.
    write : callable
        Writes the plan of a proposal to a folder.
    check : callable, optional
        Verifies a plan.
    record : callable, optional
        Called with the measured segments of all plans.

    Returns
    -------
    plan : Plan or None
        None where no candidate could run.
    notes : tuple of str
        Why not; those of a plan are in it.

    Raises
    ------
    SplitInterrupted
        When the user interrupts after a plan ran.
    VerificationFailed
        When the plans of an explicit strategy compute something else.
    TrisectError
        As `DeviceLoop.refine`.
    """
    reason = _too_slow(inputs, budget_s(request))
    if reason:
        return None, (f"plans were not run: {reason}",)
    with ScratchFolder("loop") as folder:
        loop = DeviceLoop(
            inputs,
            write,
            folder,
            budget=TimeBudget(budget_s(request)),
            runs=ContenderRuns(),
            record=record,
            progress=progress,
        )
        if request.strategy == "auto":
            plannings = {"plannings_max": request.refine + 1} if request.refine else {}
            result = loop.choose(seed=request.seed, **plannings)
        else:
            result = loop.refine(partial(_proposal, request), request.refine)
        if not result.was_interrupted:
            progress(0, 0, "verifying the chosen plan against the whole model")
        chosen = _first_right(result, None if result.was_interrupted else check, is_strict=request.strategy != "auto")
        if chosen is None:
            return None, result.notes
        plan = _described(inputs, result, chosen).save(out_folder)
        plan = replace(plan, verified=chosen.plan.verified)
    if result.was_interrupted:
        raise SplitInterrupted(replace(plan, verified=skipped("the split was interrupted")))
    return plan, ()


def _proposal(request: PlanRequest, inputs: ProblemInputs) -> Proposal:
    return propose(inputs.problem, request.strategy, time_limit_s=request.search_time_s, seed=request.seed)


def _first_right(
    result: LoopResult, check: Callable[[Plan], PlanCheck] | None, *, is_strict: bool
) -> MeasuredContender | None:
    """Return the best contender that computes what the whole model does; None where all are wrong."""
    contenders = result.ranking.contenders
    if check is None or not contenders:
        return next(iter(contenders), None)
    results = []
    for contender in contenders:
        results.append(check(contender.plan))
        if results[-1].ok is not False:
            return replace(contender, plan=replace(contender.plan, verified=results[-1]))
    if is_strict:
        try:
            raise_wrong(contenders[0].plan, results[0])
        except SegmentsDiffer as error:
            raise error.unresolved() from None
    return None


def _described(inputs: ProblemInputs, result: LoopResult, chosen: MeasuredContender) -> Plan:
    """Return the plan with what was measured."""
    comparison = measured_comparison(
        inputs, chosen, result.alone, noise=result.ranking.noise, splits_run=result.splits_run
    )
    what = "latency" if inputs.objective == "latency" else "time per item"
    note = (
        f"chosen of {len(result.ranking.contenders)} plans that ran: {what} {chosen.measured_s * 1e3:.3g} ms, measured"
    )
    return replace(chosen.plan, comparison=comparison, notes=(*chosen.plan.notes, *result.notes, note))


def _obstacle(objective: str, devices: tuple[Device, ...]) -> str:
    """Return why plans cannot be run, or why that would not show the objective; empty where they can."""
    if objective not in ("latency", "throughput"):
        return f"running a plan does not measure its {objective}"
    remote = [device.id for device in devices if device.node or device.reality == "published"]
    if remote:
        return f"{', '.join(remote)} cannot be run from here"
    idle = [device.id for device in devices if not capabilities(device).computes]
    return f"{', '.join(idle)} computes nothing" if idle else ""


def _too_slow(inputs: ProblemInputs, time_s: float | None) -> str:
    """Return why there is no time to run a single plan; empty where there is."""
    run_s = min((single.value for single in single_candidates(inputs.problem).values()), default=0.0)
    if run_s > _PREDICTED_MAX_S:
        return f"one run is predicted to take {run_s:.3g} s"
    needed_s = _RUNS * run_s + sum(inputs.weights_bytes.values()) / _WEIGHT_BYTES_PER_S
    if time_s is not None and needed_s > time_s:
        return f"loading and running one takes about {needed_s:.2g} s, and the time budget is {time_s:.3g} s (--budget)"
    return ""
