"""``trisect split``: place a model's nodes on devices, and cut it into segments that run there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.errors import InvalidInput

from ..option_parsing import parse_duration, parse_shapes
from ..options import Address, Debug, Devices, Json, Machine, ObjectiveName, Seed, Shapes
from ..output import note, print_json, print_table, progress_bar
from ..plan_documents import plan_document
from ..plan_tables import certificate, comparison_lines, segment_table
from ..quantities import plural, quantity, size

if TYPE_CHECKING:
    from trisect.partitioner.problem.constraints import Constraints
    from trisect.runtime.plans.plan import Plan
    from trisect.scheduler.problem.solution import Solution


def split(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="An ONNX model.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Write the plan to this folder; with --pareto, a plan for each point."
        ),
    ] = None,
    devices: Devices = "auto",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="Placement strategy: auto, opclass, exact, single:cpu:ort, ..."
        ),
    ] = "auto",
    objective: ObjectiveName = "latency",
    pareto: Annotated[
        str | None,
        typer.Option("--pareto", metavar="A,B", help="Two objectives: print the Pareto-optimal points."),
    ] = None,
    shape: Shapes = None,
    constraints: Annotated[
        Path | None, typer.Option("--constraints", metavar="FILE", help="TOML file with placement constraints.")
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(
            "--force",
            metavar="SELECTOR=DEVICE",
            help="Place nodes on a device; the selector is NAME, re:..., op:... or class:...; repeatable.",
        ),
    ] = None,
    forbid: Annotated[
        list[str] | None,
        typer.Option("--forbid", metavar="SELECTOR=DEVICE", help="Keep nodes off a device; repeatable."),
    ] = None,
    colocate: Annotated[
        list[str] | None,
        typer.Option("--colocate", metavar="SELECTORS", help="Place all these nodes on one device; repeatable."),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume",
            metavar="NAME",
            help="What is known of the values: narrow-numbers (no 64-bit number needs more than 32 bits) or "
            "special-floats (inputs contain infinities or NaN); repeatable.",
        ),
    ] = None,
    max_segments: Annotated[int | None, typer.Option("--max-segments", help="Maximum number of segments.")] = None,
    no_cpu_fallback: Annotated[
        bool, typer.Option("--no-cpu-fallback", help="Fail if any node would run on the CPU.")
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", help="Time limit of the search, in seconds.")
    ] = None,
    seed: Seed = 0,
    machine: Machine = None,
    address: Address = None,
    refine: Annotated[
        int,
        typer.Option(
            "--refine", min=0, help="Number of refinement iterations: run the plan, correct the costs, plan again."
        ),
    ] = 0,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="DURATION",
            help="Time for running candidates with the strategy auto, such as 30s or 2m; default: a few seconds.",
        ),
    ] = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Do not run candidates with the strategy auto: only predict.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not run the plan beside the whole model before it is written.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="Tolerance of that comparison: absolute, and relative to the value."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Split a model over devices, and write a plan folder for `run` and `verify`.

    The strategy auto runs the devices alone and promising splits, and takes the fastest. Ctrl-C ends that early: the
    fastest plan so far is written.
    """
    if out is None and pareto is None:
        raise InvalidInput("expected a folder for the plan, found none", remedy="name one with --out")
    if pareto is not None:
        _check_pareto_options(context)
    from trisect.partitioner.planning.measured_planning import SplitInterrupted

    from ... import api, pareto_plans

    demands = _constraints(constraints, force, forbid, colocate, max_segments, no_cpu_fallback, assume)
    shapes = parse_shapes(shape or [])
    was_interrupted = False
    with progress_bar("splitting") as report:
        if pareto is not None:
            front = pareto_plans.pareto(
                model, tuple(pareto.split(",")), devices, shapes,  # type: ignore[arg-type]
                constraints=demands, time_limit_s=time_limit, seed=seed, out=out, machine=machine, address=address,
                verify=not no_verify, tolerance=tolerance, progress=report,
            )  # fmt: skip
        else:
            try:
                plan = api.split(
                    model, devices, strategy, objective, shapes, constraints=demands, time_limit_s=time_limit,
                    seed=seed, out=out, machine=machine, address=address, refine=refine, measure=not no_measure,
                    budget_s=parse_duration(budget) if budget is not None else None,
                    verify=not no_verify, tolerance=tolerance, progress=report,
                )  # fmt: skip
            except SplitInterrupted as interruption:
                plan, was_interrupted = interruption.plan, True
    if pareto is not None:
        _show_front(front, out, json)
    elif json:
        print_json(plan_document(plan))
    else:
        _show_plan(plan, out)
    if machine is not None and not json:
        note(f"predicted from the published profile of {machine}; nothing was measured")
    if was_interrupted:
        raise KeyboardInterrupt


def _check_pareto_options(context: typer.Context) -> None:
    """Refuse options that a Pareto front does not take: it tries all strategies, and names its objectives."""
    for parameter in ("strategy", "objective", "refine", "budget", "no_measure"):
        source = context.get_parameter_source(parameter)
        if source is not None and source.name != "DEFAULT":
            option = parameter.replace("_", "-")
            raise InvalidInput(f"--{option} cannot be combined with --pareto", remedy=f"leave --{option} out")


def _constraints(
    file: Path | None,
    force: list[str] | None,
    forbid: list[str] | None,
    colocate: list[str] | None,
    max_segments: int | None,
    no_cpu_fallback: bool,
    assume: list[str] | None,
) -> Constraints:
    """Return the constraints of the file and of the options; options take precedence."""
    from trisect.partitioner.problem.constraints import parse_pairs, read_constraints

    options = {
        "force": parse_pairs(force or [], "--force"),
        "forbid": parse_pairs(forbid or [], "--forbid"),
        "colocate": [group.split(",") for group in colocate or []],
        "max_segments": max_segments,
        "cpu_fallback": not no_cpu_fallback,
        "assume": assume or [],
    }
    return read_constraints(file).joined(read_constraints(options))


def _show_plan(plan: Plan, out: Path | None) -> None:
    columns, rows = segment_table(plan)
    print_table(columns, rows, title=f"{plan.model} ({plan.strategy})", names=columns[3:])
    moved = [t.size_bytes for t in plan.transfers if t.source >= 0 and t.target >= 0]
    segments, transfers = plural(len(plan.segments), "segment"), plural(len(moved), "transfer")
    note(f"plan written to {out}: {segments}, {transfers}, {size(sum(moved))}")
    for text in plan.notes:
        note(f"note: {text}")
    if plan.verified is not None:
        note(str(plan.verified))
    if plan.predicted.peak_bytes and plan.objective == "memory":
        basis = plan.predicted.peak_basis or {}
        peaks = [
            f"{device} {size(peak)} ({basis[device]})" for device, peak in plan.predicted.peak_bytes.items() if peak
        ]
        note(f"peak memory: {', '.join(peaks)}")
    note(certificate(plan))
    for line in comparison_lines(plan):
        note(line)


def _show_front(front: list[Solution], out: Path | None, json: bool) -> None:
    if json:
        points = [
            {
                "values": dict(s.values),
                "intervals": dict(s.intervals),
                "placement": dict(s.placement),
                "plan": str(out / f"{number:02d}") if out is not None else None,
            }
            for number, s in enumerate(front)
        ]
        print_json({"objectives": list(front[0].values), "points": points})
        return
    objectives = list(front[0].values)
    rows = [
        (
            f"{number:02d}",
            *(quantity(s.values[name], name, s.intervals.get(name)) for name in objectives),
            ", ".join(f"{list(s.placement.values()).count(d)} on {d}" for d in dict.fromkeys(s.placement.values())),
        )
        for number, s in enumerate(front)
    ]
    print_table(["point", *objectives, "tasks"], rows, title="Pareto-optimal points")
    note("predicted" if out is None else f"predicted; a plan for each point in {out}")
