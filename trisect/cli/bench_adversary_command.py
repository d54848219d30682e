"""``trisect bench adversary``: a small problem on which one strategy is as bad as can be found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size


def adversary(
    strategy: Annotated[str, typer.Argument(help="The strategy to embarrass.")],
    against: Annotated[str, typer.Argument(help="The one to compare it with.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed finds the same problem.")] = 0,
    iterations: Annotated[int, typer.Option("--iterations", help="Problems tried.")] = 1000,
    restarts: Annotated[int, typer.Option("--restarts", help="Random problems to begin from.")] = 5,
    tasks: Annotated[int, typer.Option("--tasks", help="Of the problems to begin with.")] = 8,
    devices: Annotated[int, typer.Option("--devices", help="Of all problems.")] = 3,
    rules: Annotated[str, typer.Option("--rules", help="tasks, or segments as the runtime cuts them.")] = "tasks",
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0.01, help="Seconds a problem for strategies that search.")
    ] = 1.0,
    load: Annotated[
        list[Path] | None, typer.Option("--load", help="A Python file of yours that registers strategies; it is run.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to keep the problem in; a study can read it.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search for a problem on which one strategy is worst against another, by simulation."""
    from trisect.bench.study.adversary import find_adversary
    from trisect.bench.study.user_module import load as load_file
    from trisect.profiles.stored.profile_store import write_aside
    from trisect.scheduler.benchmarks.problem_file import write_problem_file

    for file in load or ():
        load_file(file)
    with progress_bar("searching") as report:
        found = find_adversary(
            strategy, against, seed=seed, iterations=iterations, restarts=restarts, tasks=tasks, devices=devices,
            rules=rules, time_limit_s=time_limit, progress=report,
        )  # fmt: skip
    if out is not None:
        write_aside(out, write_problem_file(found.tables))
    if json:
        print_json(found)
        return
    ids = [device.id for device in found.tables.devices]
    following: dict[str, list[str]] = {}
    for edge in found.tables.edges:
        following.setdefault(edge.source, []).append(f"{edge.target} ({size(edge.size_bytes)})")
    print_table(
        ["task", *ids, "hands on to"],
        [
            (task.name, *(duration(t) for t in task.times_s), ", ".join(following.get(task.name, [])) or "-")
            for task in found.tables.tasks
        ],
        title=f"{strategy} against {against}: {found.ratio:.4g} times, simulated; {found.start_ratio:.4g} at the start",
    )
    note(
        f"{strategy}: {duration(found.value) if found.value is not None else found.reason}; "
        f"{against}: {duration(found.against_value)}; {found.tried} problems tried"
    )
    if out is not None:
        note(f"kept in {out}: trisect bench study --strategies {strategy},{against} --workloads problems:{out}")
