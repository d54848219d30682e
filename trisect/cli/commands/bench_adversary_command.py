"""``trisect bench adversary``: search for a small problem that is adversarial for a placement strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Debug, Json, LoadFiles, Seed
from ..output import note, print_json, print_table, progress_bar
from ..quantities import duration, size


def adversary(
    strategy: Annotated[str, typer.Argument(help="The strategy under test.")],
    against: Annotated[str, typer.Argument(help="The strategy to compare it with.")],
    seed: Seed = 0,
    iterations: Annotated[int, typer.Option("--iterations", help="Number of problems to evaluate.")] = 1000,
    restarts: Annotated[int, typer.Option("--restarts", help="Number of random initial problems.")] = 5,
    tasks: Annotated[int, typer.Option("--tasks", help="Number of tasks of the initial problems.")] = 8,
    devices: Annotated[int, typer.Option("--devices", help="Number of devices.")] = 3,
    rules: Annotated[
        str,
        typer.Option("--rules", metavar="NAME", help="Execution rules: tasks, or segments as the runtime runs them."),
    ] = "tasks",
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0.01, help="Time limit of a search per problem, in seconds.")
    ] = 1.0,
    load: LoadFiles = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the problem to this file, which a study can read."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search for a problem on which one strategy is much worse than another, by simulation."""
    from trisect.bench.study.adversary import AdversarySearch, find_adversary
    from trisect.bench.study.user_module import load as load_file
    from trisect.runtime.atomic_write import write_atomically
    from trisect.runtime.files.output_paths import check_output_file
    from trisect.scheduler.benchmarks.problem_file import write_problem_file

    if out is not None:
        check_output_file(out, map(Path, load or ()))
    for file in load or ():
        load_file(file)
    with progress_bar("searching") as report:
        search = AdversarySearch(strategy, against, seed, iterations, restarts, tasks, devices, rules, time_limit)
        worst = find_adversary(search, report)
    if out is not None:
        write_atomically(out, write_problem_file(worst.tables))
    if json:
        print_json(worst)
        return
    ids = [device.id for device in worst.tables.devices]
    following: dict[str, list[str]] = {}
    for edge in worst.tables.edges:
        following.setdefault(edge.source, []).append(f"{edge.target} ({size(edge.size_bytes)})")
    print_table(
        ["task", *ids, "successors"],
        [
            (task.name, *(duration(t) for t in task.times_s), ", ".join(following.get(task.name, [])) or "-")
            for task in worst.tables.tasks
        ],
        title=f"{strategy} / {against}: {worst.ratio:.4g}, simulated; initially {worst.start_ratio:.4g}",
    )
    note(
        f"{strategy}: {duration(worst.value) if worst.value is not None else worst.reason}; "
        f"{against}: {duration(worst.against_value)}; {worst.tried} problems evaluated"
    )
    if out is not None:
        note(f"written to {out}")
        note(f"to run it: trisect bench study --strategies {strategy},{against} --workloads problems:{out}")
