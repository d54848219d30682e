"""Runs a new plan once beside the whole model, in a process that may crash, and says whether it computes the same."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

from ..device import Device
from ..engines import find_devices
from ..errors import EngineFailed, TrisectError
from ..plans.check_result import PlanCheck, skipped
from ..plans.plan import Plan
from ..sessions.session import Session
from ..tensors.synthetic_feeds import generate_feeds
from .sensitivity import sensitive_outputs
from .tensor_checks import TensorCheck, Verification, compare_tensors
from .tolerances import Tolerance, default_tolerance
from .whole_model import REFERENCES, WholeModel, boundary_of, random_operator, run_whole

_DRAWS = 2
_REASON_LENGTH = 200


def check_plan(folder: Path, model_path: Path, tolerance: float | None = None) -> PlanCheck:
    """Run a plan and its whole model on generated inputs, and compare the outputs.

    Parameters
    ----------
    folder : Path
        Of the plan.
    model_path : Path
        The model that was split.
    tolerance : float, optional
        As for `trisect.runtime.verification.verify`.

    Returns
    -------
    PlanCheck
        Skipped where the model cannot be verified: it draws random numbers, its result depends on rounding, or the
        whole model does not run on generated inputs.
    """
    plan = Plan.load(folder)
    model = WholeModel.read(model_path, plan.outputs)
    random = random_operator(model.proto)
    if random is not None:
        return skipped(f"{random} gives other numbers in each run")
    allowed = default_tolerance(model.proto, devices=plan.used_devices) if tolerance is None else Tolerance(tolerance)
    result = skipped("")
    for seed in range(_DRAWS):
        result = _check_once(plan, model, allowed, seed)
        if result.ok is not None:
            break
    return result


def _check_once(plan: Plan, model: WholeModel, tolerance: Tolerance, seed: int) -> PlanCheck:
    feeds = generate_feeds(model.proto, plan, seed, narrow=plan.assumes_narrow_numbers)
    boundary = boundary_of(plan, model)
    try:
        device, whole = run_whole(model, find_devices(REFERENCES), boundary, feeds)
    except TrisectError as error:
        return skipped(f"the whole model does not run on generated inputs: {error.reason[:_REASON_LENGTH]}")
    if any(spec.name not in whole for spec in plan.outputs):
        return skipped("the model has other outputs than the plan")
    try:
        with Session(replace(plan, outputs=(*plan.outputs, *boundary))) as session:
            split = session.run(feeds)
    except EngineFailed as error:
        return PlanCheck(False, inf, inf, str(tolerance), device.id, "", error.segment, error.reason[:_REASON_LENGTH])
    except TrisectError as error:
        return skipped(error.message[:_REASON_LENGTH])
    verification = compare_tensors(plan, boundary, split, whole, tolerance, device.id)
    wrong = [check for check in verification.checks if check.is_output and not check.ok]
    if wrong:
        specs = [spec for spec in plan.outputs if any(check.name == spec.name for check in wrong)]
        sensitive = sensitive_outputs(model, device, feeds, specs, whole, tolerance)
        wrong = [check for check in wrong if check.name not in sensitive]
        if not wrong:
            return skipped(
                f"output {specs[0].name!r} changes when the inputs and weights change by their rounding, so that a "
                "difference proves nothing"
            )
        worst = max(wrong, key=lambda check: check.worst)
        return PlanCheck(
            False, verification.max_abs, verification.max_rel, str(tolerance), device.id, "",
            _culprit(plan, verification, worst, device), worst.difference, worst.name,
        )  # fmt: skip
    return PlanCheck(True, verification.max_abs, verification.max_rel, str(tolerance), device.id)


def _culprit(plan: Plan, verification: Verification, worst: TensorCheck, reference: Device) -> int | None:
    """Return the segment that most likely computes the difference, on another device than the reference.

    It is the first one with right inputs and wrong outputs. Where each segment alone stays within the tolerance, it is
    the nearest one before the wrong output.
    """
    others = {segment.index for segment in plan.segments if segment.device != reference.id}
    if verification.drift_segment in others:
        return verification.drift_segment
    producers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
    waiting, seen = [worst.name], set[str]()
    while waiting:
        name = waiting.pop(0)
        segment = producers.get(name)
        if segment is None or name in seen:
            continue
        seen.add(name)
        if segment.index in others:
            return segment.index
        waiting += [spec.name for spec in segment.inputs]
    return verification.drift_segment
