"""``trisect bench simulate``: the speed of the simulator."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import print_json, print_table, progress_bar
from trisect.cli.quantities import duration
from trisect.runtime.errors import InvalidInput


def simulate(
    tasks: Annotated[str, typer.Option("--tasks", help="Numbers of tasks, comma-separated.")] = "1000,10000,100000",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of each; the median counts.")] = 5,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the simulator on random task graphs."""
    from ..simulation_speed import bench_simulation
    from ..target_check import exit_if_missed, verdict

    try:
        counts = [int(part) for part in tasks.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise InvalidInput(f"--tasks is {tasks!r}", remedy="give sizes such as 1000,10000")
    with progress_bar("simulating") as report:
        runs = bench_simulation(counts, rounds=rounds, progress=report)
    if json:
        print_json({"runs": runs, "met": all(run.met for run in runs)})
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
                verdict(run.met),
            )
            for run in runs
        ]
        columns = [
            "tasks",
            "transfers",
            "set-up",
            "simulation",
            "with timeline",
            "events/s",
            "events/s with timeline",
            "",
        ]
        print_table(columns, rows)
    exit_if_missed(check, all(run.met for run in runs))
