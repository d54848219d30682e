"""``trisect bench placement`` and ``plan-speed``: the quality of placements, and the time of planning."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar
from trisect.cli.quantities import duration
from trisect.runtime.errors import InvalidInput


def placement(
    strategy: Annotated[str, typer.Option("--strategy", help="Strategy for the device-placement graphs.")] = "exact",
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0.1, help="Seconds for each device-placement graph.")
    ] = 60.0,
    task_graph_time: Annotated[
        float, typer.Option("--task-graph-time", min=0.1, help="Seconds for each standard task graph.")
    ] = 5.0,
    only: Annotated[str, typer.Option("--only", help="Substring of the names of the graphs to run.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the searches.")] = 0,
    variants: Annotated[
        bool, typer.Option("--variants", help="Solve variants of these graphs: renamed, perturbed, training, ...")
    ] = False,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Solve published placement problems and compare with the best known values (data: folder TRISECT_DATA)."""
    from ..placement_quality import bench_placement
    from ..target_check import exit_if_missed, verdict

    with progress_bar("solving") as report:
        result = bench_placement(
            strategy,
            time_limit_s=time_limit,
            task_graph_s=task_graph_time,
            only=only,
            seed=seed,
            variants=variants,
            progress=report,
        )
    if json:
        import msgspec

        print_json(msgspec.to_builtins(result) | {"met": result.met})
    else:
        rows = [
            (
                f"{run.graph} {run.variant}".rstrip(),
                "contiguous" if run.contiguous else run.objective,
                f"{run.value:.3f}",
                f"{run.bound:.3f}",
                f"{run.gap:.1%}",
                "" if run.best_known is None else f"{run.best_known:.3f}",
                duration(run.seconds),
                verdict(run.met),
            )
            for run in result.runs
        ]
        print_table(["graph", "objective", "value", "bound", "gap", "best known", "time", ""], rows)
        if result.mean_gap is not None:
            invalid = sum(not run.valid for run in result.task_graphs)
            note(f"{len(result.task_graphs)} standard task graphs: mean gap {result.mean_gap:.3%}, invalid {invalid}")
    exit_if_missed(check, result.met)


def plan_speed(
    nodes: Annotated[
        str, typer.Option("--nodes", help="Numbers of nodes of the models, comma-separated.")
    ] = "10000,100000",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of each strategy; the median counts.")] = 3,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the fast strategies on large models and three devices of modelled speed."""
    from ..plan_speed import bench_plan_speed
    from ..target_check import exit_if_missed, verdict

    try:
        counts = [int(part) for part in nodes.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InvalidInput(f"--nodes is {nodes!r}", remedy="give sizes such as 10000,100000")
    with progress_bar("planning") as report:
        runs = bench_plan_speed(counts, rounds=rounds, progress=report)
    if json:
        versions = {name: version(name) for name in ("trisect", "networkx", "onnx", "onnx-ir")}
        print_json({"versions": versions, "runs": runs, "met": all(run.met for run in runs)})
    else:
        rows = [
            (
                f"{run.nodes}",
                run.strategy,
                f"{duration(run.read_s)} of {duration(run.read_bar_s)}",
                duration(run.problem_s),
                duration(run.place_s),
                f"{duration(run.total_s)} of {duration(run.bar_s)}",
                verdict(run.met),
            )
            for run in runs
        ]
        print_table(["nodes", "strategy", "file to graph", "to problem", "to placement", "total from graph", ""], rows)
    exit_if_missed(check, all(run.met for run in runs))
