"""Makes a plan from a request: prepares the problem, places it, cuts it into segments, and writes these to a folder.

Only the compiler of a device decides whether a segment runs there. Where it refuses one, the nodes of the segment are
kept off that device, and the plan is made again, a few times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from trisect.runtime.errors import InfeasibleProblem, InvalidPlan, UnsupportedModel, UnsupportedOperator
from trisect.runtime.files.atomic_folder import atomic_folder, check_folder, remove_folder
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_checks import check_content
from trisect.runtime.plans.plan_folder import PLAN_FOLDER, write_json
from trisect.runtime.printable_text import utf8_text
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal, Solution
from trisect.scheduler.simulation.energy_and_memory import with_energy_and_memory

from ..costs.plan_prediction import predict_plan, separate_cores_note
from ..graph.model_graph import Graph
from ..problem.device_copies import with_copies
from ..problem.device_support import refused_segments
from ..problem.problem_builder import ProblemInputs
from ..problem.task_grouping import task_of_node
from ..segments.boundary_layouts import nhwc_boundaries
from ..segments.pieces import pieces_of_parts, with_constant_outputs
from ..segments.segment_writer import write_segments
from ..strategies import propose
from ..strategies.common.placement_value import certificate, closed_bound, evaluate_proposal
from .compared_devices import predicted_comparison
from .measured_planning import budget_s, plan_by_running, runs_plans
from .measured_plans import FOLDER, MeasuredPlans
from .pareto_front import check_objectives, pareto_front
from .placement_reasons import placed_tasks
from .plan_request import DeviceData, PlanRequest
from .plan_verification import RESULTS_FILE, PlanVerifier
from .preparation import prepare
from .refused_segments import SegmentsDiffer, SegmentsRefused, gathered, raise_wrong, without_segments

_ATTEMPTS_MAX = 5
"""Number of plans that are made while devices refuse segments."""

_T = TypeVar("_T")


def make_plan(request: PlanRequest, data: DeviceData, out_folder: str | Path, progress: Progress = no_progress) -> Plan:
    """Split a model over devices.

    Parameters
    ----------
    out_folder : str or Path
        New, or that of an earlier plan, which is replaced once the new one is complete.
    progress : callable, optional
        Called while devices are asked and the model is measured.

    Returns
    -------
    Plan
        The same bytes in `out_folder` for the same input.

    Raises
    ------
    TrisectError
        For a malformed model, an unbound dimension, an operator that no device supports, contradictory constraints, an
        unknown strategy, or a full disk.
    """
    is_run = runs_plans(request)
    graph = Graph.read(request.model, request.shapes)
    verifier = _verifier(request, data)
    check = verifier.check if verifier is not None else None
    cache = MeasuredPlans(data.calibrations.with_name(FOLDER), request, graph) if data.calibrations else None
    if is_run and cache is not None and (known := cache.restore(Path(out_folder), budget_s(request))) is not None:
        verified = check(known) if check is not None else None
        if verified is None or verified.ok is not False:
            return replace(known, verified=verified)
    inputs = prepare(request, data, progress, graph, plans_run=is_run)
    notes: tuple[str, ...] = ()
    if is_run:
        write = partial(_write_candidate, replace(request, verify=False))
        plan, notes = plan_by_running(
            request, inputs, Path(out_folder), write=write, check=check, record=data.record, progress=progress
        )
        if plan is not None:
            if cache is not None:
                cache.add(plan, budget_s(request))
            return plan
    return _place_and_write(request, data, inputs, out_folder, progress, notes)


def _write_candidate(request: PlanRequest, inputs: ProblemInputs, proposal: Proposal, folder: Path) -> Plan:
    return write_plan(inputs, proposal, request, folder)


def make_pareto_plans(
    request: PlanRequest,
    data: DeviceData,
    objectives: tuple[Objective, Objective],
    out_folder: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[list[Solution], list[Plan]]:
    """Find the Pareto-optimal placements of a model for two objectives, and write a plan of each.

    Parameters
    ----------
    request : PlanRequest
        Strategy, objective and refinement do not apply.
    out_folder : Path, optional
        Gets one plan folder per placement: ``00``, ``01``, ... in the order of the result; no plans when left out.

    Returns
    -------
    list of Solution
        As `pareto_front`.
    list of Plan
        One per solution, where `out_folder` is set.

    Raises
    ------
    TrisectError
        As `make_plan` and `pareto_front`.
    """
    check_objectives(objectives)
    request = replace(request, strategy="pareto", objective=objectives[0])

    def solve_and_write(inputs: ProblemInputs, notes: list[str]) -> tuple[list[Solution], list[Plan]]:
        front = pareto_front(inputs.problem, objectives, time_limit_s=request.search_time_s, seed=request.seed)
        plans: list[Plan] = []
        if out_folder is None:
            return front, plans
        refusals: list[SegmentsRefused] = []  # of all plans at once: each attempt costs a new front
        for number, solution in enumerate(front):
            folder = out_folder / f"{number:02d}"
            try:
                plans.append(write_plan(inputs, Proposal(solution.placement), request, folder, notes, data, progress))
            except SegmentsRefused as refusal:
                refusals.append(refusal)
        if refusals:
            for plan in plans:
                remove_folder(Path(plan.folder), PLAN_FOLDER)
            raise gathered(refusals)
        return front, plans

    return _while_segments_are_refused(prepare(request, data, progress), solve_and_write)


def check_pareto_folder(out_folder: Path, inputs: Iterable[Path]) -> None:
    """Check that a folder can get plans, and that no folder with the name of one contains an input or other files.

    Raises
    ------
    StorageFailed
    """
    inputs = tuple(inputs)
    plans = [path for path in out_folder.iterdir() if path.name.isdigit()] if out_folder.is_dir() else []
    for folder in plans or [out_folder / "00"]:
        check_folder(folder, PLAN_FOLDER, inputs)


def _place_and_write(
    request: PlanRequest,
    data: DeviceData,
    inputs: ProblemInputs,
    out_folder: str | Path,
    progress: Progress,
    more_notes: Iterable[str],
) -> Plan:
    def place_and_write(inputs: ProblemInputs, notes: list[str]) -> Plan:
        proposal = propose(inputs.problem, request.strategy, time_limit_s=request.search_time_s, seed=request.seed)
        return write_plan(inputs, proposal, request, out_folder, [*more_notes, *notes], data, progress)

    return _while_segments_are_refused(inputs, place_and_write)


def _while_segments_are_refused(inputs: ProblemInputs, attempt: Callable[[ProblemInputs, list[str]], _T]) -> _T:
    """Repeat an attempt, without the placements of segments that are refused; it gets a note for each of these."""
    notes: list[str] = []
    wrong: SegmentsDiffer | None = None
    for number in range(_ATTEMPTS_MAX):
        try:
            return attempt(inputs, notes)
        except SegmentsRefused as refusal:
            wrong = refusal if isinstance(refusal, SegmentsDiffer) else wrong
            if number == _ATTEMPTS_MAX - 1:
                raise refusal if wrong is None else wrong.unresolved() from refusal
            inputs = without_segments(inputs, refusal)
            notes += [refusal.note(segment, reason) for segment, reason in refusal.refused]
        except (InfeasibleProblem, UnsupportedOperator) as error:
            if wrong is None:
                raise
            raise wrong.unresolved() from error
    raise AssertionError("unreachable")


def write_plan(
    inputs: ProblemInputs,
    proposal: Proposal,
    request: PlanRequest,
    out_folder: str | Path,
    notes: Iterable[str] = (),
    data: DeviceData | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Cut a placement into segments, and write them with the predictions and the optimality bound of the plan.

    Parameters
    ----------
    request : PlanRequest
        Its strategy, seed, time limit and machine are recorded in the plan.
    notes : iterable of str
        Recorded in the plan.
    data : DeviceData, optional
        Left out for a plan that is only to be measured. With capabilities, segments are compiled on their devices; if
        the request says so, the plan is verified.

    Raises
    ------
    InfeasibleProblem
        When the placement violates a rule of the problem.
    SegmentsRefused
        When a segment does not compile on its device, or computes something else than the whole model.
    VerificationFailed
        When the plan computes something else, and no segment is at fault.
    StorageFailed
        When the folder cannot be written.
    """
    graph, problem = inputs.graph, inputs.problem
    capabilities = data.capabilities if data is not None else None
    evaluation = evaluate_proposal(problem, proposal)
    if evaluation.violations:
        raise InfeasibleProblem(
            f"strategy {request.strategy!r} returned an invalid placement: {evaluation.violations[0].message}"
        )
    assert evaluation.schedule is not None
    placement, bound = proposal.placement, certificate(problem, proposal)
    cut_short = ["the time limit ended the search: another run may find something else"] * proposal.is_cut_short
    with atomic_folder(Path(out_folder), PLAN_FOLDER) as aside:
        pieces = with_constant_outputs(
            graph, pieces_of_parts(graph, problem.graph, evaluation.parts), problem.device_ids[0]
        )
        nhwc_tensors = nhwc_boundaries(graph, pieces, inputs.devices)
        prediction = predict_plan(inputs, problem, evaluation.parts, pieces, nhwc_tensors)
        value, schedule = prediction.evaluate(evaluation.parts, inputs.session_overhead_s)
        # The bound holds for the costs that the strategy saw: it stays as far below the value as there.
        bound_value = bound.value * (value / evaluation.value if evaluation.value > 0 else 1.0)
        segments, transfers, weights = write_segments(graph, pieces, aside, nhwc_tensors)
        if capabilities is not None:
            refused = refused_segments(segments, inputs.devices, aside, capabilities)
            if refused:
                raise SegmentsRefused(refused)
        plan = Plan(
            model=utf8_text(graph.path.name),
            model_sha256=graph.sha256,
            devices=inputs.devices,
            placement=_of_nodes(graph, problem, placement),
            segments=segments,
            transfers=transfers,
            inputs=graph.inputs,
            fixed_inputs=graph.fixed_inputs,
            outputs=graph.outputs,
            strategy=request.strategy,
            objective=inputs.objective,
            seed=request.seed,
            shapes=dict(graph.shapes),
            predicted=with_energy_and_memory(
                prediction.problem,
                evaluation.parts,
                with_copies(prediction.with_intervals(schedule), segments, inputs.devices),
            ),
            value=value,
            interval=prediction.interval(value),
            bound=closed_bound(bound_value, value),
            bound_by=bound.by,
            tasks=placed_tasks(problem, placement),
            notes=(
                *inputs.notes,
                *notes,
                *cut_short,
                *separate_cores_note(inputs, prediction.problem, evaluation.parts, value),
            ),
            constraints=inputs.constraints.plain(),
            time_limit_s=request.time_limit_s,
            machine=request.machine,
            weights=weights,
        )
        if data is not None:
            plan = replace(plan, comparison=predicted_comparison(inputs, plan))
        _check_sizes(plan)
        write_json(plan, aside)
        verifier = _verifier(request, data)
        verified = None
        if verifier is not None:
            progress(0, 0, "verifying the plan against the whole model")
            verified = verifier.check(replace(plan, folder=os.path.abspath(aside)))
            if verified.ok is False:
                raise_wrong(plan, verified)
    shown_notes = plan.notes
    if capabilities is not None and capabilities.moved is not None:
        # Shown but not stored: the same request gives the same file, whatever the state of a cache.
        shown_notes = (
            *shown_notes,
            f"the cache of supported operators is damaged and was moved to {capabilities.moved}",
        )
    return replace(plan, folder=os.path.abspath(out_folder), notes=shown_notes, verified=verified)


def _check_sizes(plan: Plan) -> None:
    """Check that the plan can be loaded again."""
    try:
        check_content(plan, Path(plan.model))
    except InvalidPlan as error:
        raise UnsupportedModel(error.message, remedy="check the model's shapes") from error


def _verifier(request: PlanRequest, data: DeviceData | None) -> PlanVerifier | None:
    if not request.verify or data is None or data.capabilities is None:
        return None
    return PlanVerifier(request.model, data.capabilities.path.with_name(RESULTS_FILE), request.tolerance)


def _of_nodes(graph: Graph, problem: Problem, placement: Mapping[str, str]) -> dict[str, str]:
    """Return the placement of the ONNX nodes; a constant is on the device of its first reader."""
    owner = task_of_node(problem.graph)
    where: dict[str, str] = {}
    for node in reversed(list(graph.nodes)):
        task = owner.get(node)
        users = [where[user] for user in graph.digraph.successors(node)] if task is None else []
        where[node] = placement[task] if task is not None else users[0] if users else problem.device_ids[0]
    return {node: where[node] for node in graph.nodes}
