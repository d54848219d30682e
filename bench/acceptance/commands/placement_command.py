"""``trisect bench placement`` and ``plan-speed``: how good plans are, and how quickly they come."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import duration, note, print_json, print_table, progress_bar
from trisect.runtime.errors import InvalidInput


def placement(
    strategy: Annotated[str, typer.Option("--strategy", help="Which to run on the device-placement graphs.")] = "exact",
    time_limit: Annotated[float, typer.Option("--time-limit", min=0.1, help="Seconds for each of these.")] = 60.0,
    task_graph_time: Annotated[
        float, typer.Option("--task-graph-time", min=0.1, help="Seconds for each standard task graph.")
    ] = 5.0,
    only: Annotated[str, typer.Option("--only", help="Part of the names of the graphs to run.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="For the searches.")] = 0,
    variants: Annotated[
        bool, typer.Option("--variants", help="Solve relatives of these graphs: renamed, disturbed, training, ...")
    ] = False,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Solve published placement problems, beside the best that is known of them (data: folder TRISECT_DATA)."""
    from ..placement_quality import bench_placement

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
                "kept" if run.met else "MISSED",
            )
            for run in result.runs
        ]
        print_table(["graph", "objective", "found", "bound", "gap", "best known", "took", ""], rows)
        if result.mean_gap is not None:
            wrong = sum(not run.valid for run in result.task_graphs)
            note(f"{len(result.task_graphs)} standard task graphs: mean gap {result.mean_gap:.3%}, invalid {wrong}")
    if check and not result.met:
        raise typer.Exit(1)


def plan_speed(
    nodes: Annotated[str, typer.Option("--nodes", help="Sizes of the models, comma-separated.")] = "10000,100000",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of each strategy; the median counts.")] = 3,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the quick strategies on large models and three devices of modelled speed."""
    from ..plan_speed import bench_plan_speed

    try:
        counts = [int(part) for part in nodes.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InvalidInput(f"--nodes is {nodes!r}", remedy="give sizes such as 10000,100000")
    with progress_bar("planning") as report:
        found = bench_plan_speed(counts, rounds=rounds, progress=report)
    if json:
        versions = {name: version(name) for name in ("trisect", "networkx", "onnx", "onnx-ir")}
        print_json({"versions": versions, "runs": found, "met": all(run.met for run in found)})
    else:
        rows = [
            (
                f"{run.nodes}",
                run.strategy,
                f"{duration(run.read_s)} of {duration(run.read_bar_s)}",
                duration(run.problem_s),
                duration(run.place_s),
                f"{duration(run.total_s)} of {duration(run.bar_s)}",
                "kept" if run.met else "MISSED",
            )
            for run in found
        ]
        print_table(["nodes", "strategy", "file to graph", "to problem", "to placement", "from the graph", ""], rows)
    if check and not all(run.met for run in found):
        raise typer.Exit(1)
