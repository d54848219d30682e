"""``trisect bench simulate``: how quickly placements are played through."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import duration, print_json, print_table, progress_bar
from trisect.runtime.errors import InvalidInput


def simulate(
    tasks: Annotated[str, typer.Option("--tasks", help="Sizes of the graphs, comma-separated.")] = "1000,10000,100000",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of each; the median counts.")] = 5,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the simulator on random task graphs."""
    from ..simulation_speed import bench_simulation

    try:
        counts = [int(part) for part in tasks.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InvalidInput(f"--tasks is {tasks!r}", remedy="give sizes such as 1000,10000")
    with progress_bar("simulating") as report:
        found = bench_simulation(counts, rounds=rounds, progress=report)
    if json:
        print_json({"runs": found, "met": all(run.met for run in found)})
    else:
        rows = [
            (
                f"{run.tasks}",
                f"{run.transfers}",
                duration(run.lay_out_s),
                duration(run.play_s),
                duration(run.simulate_s),
                f"{run.events_per_s:,.0f}",
                f"{run.whole_events_per_s:,.0f}",
                "kept" if run.met else "MISSED",
            )
            for run in found
        ]
        columns = [
            "tasks",
            "transfers",
            "to lists",
            "played",
            "with timeline",
            "events/s played",
            "events/s in all",
            "",
        ]
        print_table(columns, rows)
    if check and not all(run.met for run in found):
        raise typer.Exit(1)
